# Traefik: what clients connect to; one on each of the nodes named. See README.md.

variable "nodes" {
  description = "Names of the nodes that run Traefik, separated by commas."
  type        = string
}

variable "control_urls" {
  description = "URLs of control, separated by commas, like http://10.0.0.2:9879."
  type        = string
}

variable "checkout" {
  description = "Directory of Yurt on these nodes, with its .venv (`./yurt install`)."
  type        = string
  default     = "/opt/yurt"
}

variable "listen" {
  description = "Addresses to listen on, separated by commas; default: that of the node."
  type        = string
  default     = ""
}

variable "port" {
  description = "TCP port that clients connect to."
  type        = number
  default     = 443
}

variable "url" {
  description = "Base URL that clients use, like https://yurt.example.org."
  type        = string
}

variable "domain" {
  description = "Preview domains, separated by commas."
  type        = string
}

variable "tls_cert" {
  description = "Certificate chain (PEM) on these nodes, for the API's host and all names of the preview domains."
  type        = string
  default     = ""
}

variable "tls_key" {
  description = "Its private key (PEM)."
  type        = string
  default     = ""
}

variable "allow_plain_http" {
  description = "Serve without a certificate."
  type        = bool
  default     = false
}

variable "consul_url" {
  description = "URL of Consul, as Traefik reaches it."
  type        = string
  default     = "http://127.0.0.1:8500"
}

variable "settings" {
  description = "Further settings, YURT_* without secrets."
  type        = map(string)
  default     = {}
}

variable "namespace" {
  description = "Nomad's namespace for this job."
  type        = string
  default     = "default"
}

variable "node_pool" {
  description = "Node pool of the nodes that run Traefik."
  type        = string
  default     = "default"
}

job "system-traefik" {
  namespace   = var.namespace
  node_pool   = var.node_pool
  datacenters = ["*"]
  type        = "system"
  priority    = 90

  constraint {
    attribute = "${node.unique.name}"
    operator  = "set_contains_any"
    value     = var.nodes
  }

  update {
    max_parallel = 1
    stagger      = "30s"
  }

  group "traefik" {
    network {
      port "web" {
        static = var.port
      }
    }

    restart {
      attempts = 10
      interval = "10m"
      delay    = "2s"
      mode     = "delay"
    }

    service {
      name     = "yurt-traefik"
      provider = "nomad"
      port     = "web"

      check {
        type     = "tcp"
        interval = "10s"
        timeout  = "3s"
      }
    }

    task "traefik" {
      driver = "raw_exec"

      config {
        command  = "${var.checkout}/.venv/bin/yurt"
        args     = ["traefik", "--control", var.control_urls]
        work_dir = var.checkout
      }

      env = merge({
        for name, value in {
          YURT_DATA             = "${NOMAD_SECRETS_DIR}/yurt"
          YURT_LISTEN           = var.listen != "" ? var.listen : "${NOMAD_IP_web}"
          YURT_PORT             = "${NOMAD_PORT_web}"
          YURT_URL              = var.url
          YURT_DOMAIN           = var.domain
          YURT_TLS_CERT         = var.tls_cert
          YURT_TLS_KEY          = var.tls_key
          YURT_ALLOW_PLAIN_HTTP = var.allow_plain_http ? "1" : "0"
          YURT_CONSUL_URL       = var.consul_url
        } : name => value if value != ""
      }, var.settings)

      template {
        destination = "secrets/traefik.env"
        perms       = "0600"
        env         = true
        data        = <<-EOT
          {{- if nomadVarExists "nomad/jobs/system-traefik" }}
          {{- with nomadVar "nomad/jobs/system-traefik" }}
          {{- with .consul_token }}
          YURT_CONSUL_TOKEN={{ . }}
          {{- end }}
          {{- end }}
          {{- end }}
        EOT
      }

      resources {
        cpu    = 500
        memory = 512
      }
    }
  }
}
