# Control: the API, and what brings sandboxes to where they are wanted. See README.md.

variable "nodes" {
  description = "Names of the nodes that run control, separated by commas."
  type        = string
}

variable "count" {
  description = "How many of them; one reconciles, all serve. More than one needs a database of PostgreSQL."
  type        = number
  default     = 1
}

variable "checkout" {
  description = "Directory of Yurt on these nodes, with its .venv (`./yurt install`)."
  type        = string
  default     = "/opt/yurt"
}

variable "port" {
  description = "TCP port where nodes and Traefik reach control."
  type        = number
  default     = 9879
}

variable "control_url" {
  description = "URL where nodes reach control, which outlives a move; default: the address that it has."
  type        = string
  default     = ""
}

variable "nomad_url" {
  description = "URL of Nomad's servers, as control reaches them."
  type        = string
}

variable "consul_url" {
  description = "URL of Consul, as control reaches it."
  type        = string
  default     = "http://127.0.0.1:8500"
}

variable "settings" {
  description = "Further settings, YURT_* without secrets: YURT_URL, YURT_DOMAIN, YURT_REGISTRY, …"
  type        = map(string)
  default     = {}
}

variable "namespace" {
  description = "Nomad's namespace for this job."
  type        = string
  default     = "default"
}

variable "node_pool" {
  description = "Node pool of the nodes that run control."
  type        = string
  default     = "default"
}

variable "memory" {
  description = "Memory of each, in MiB."
  type        = number
  default     = 1024

  validation {
    condition     = var.memory >= 256
    error_message = "Control needs at least 256 MiB."
  }
}

job "system-control" {
  namespace   = var.namespace
  node_pool   = var.node_pool
  datacenters = ["*"]
  type        = "service"
  priority    = 80

  constraint {
    attribute = "${node.unique.name}"
    operator  = "set_contains_any"
    value     = var.nodes
  }

  constraint {
    distinct_hosts = true
  }

  update {
    max_parallel     = 1
    min_healthy_time = "5s"
    healthy_deadline = "2m"
  }

  group "control" {
    count = var.count

    network {
      port "door" {
        static = var.port
      }
    }

    # Sandboxes go on without control: it is started again as often as it takes.
    restart {
      attempts = 10
      interval = "10m"
      delay    = "5s"
      mode     = "delay"
    }

    service {
      name     = "yurt-control"
      provider = "nomad"
      port     = "door"

      check {
        type     = "http"
        path     = "/api/health"
        interval = "10s"
        timeout  = "3s"
      }
    }

    task "control" {
      driver       = "raw_exec"
      kill_timeout = "15s"

      config {
        command  = "${var.checkout}/.venv/bin/python"
        args     = ["-m", "control"]
        work_dir = var.checkout
      }

      env = merge({
        for name, value in {
          YURT_DATA           = "${NOMAD_SECRETS_DIR}/yurt"
          YURT_CONTROL_LISTEN = "${NOMAD_IP_door}:${NOMAD_PORT_door}"
          YURT_CONTROL_URL    = var.control_url
          YURT_HOSTS          = "${NOMAD_IP_door}"
          YURT_NOMAD_URL      = var.nomad_url
          YURT_CONSUL_URL     = var.consul_url
        } : name => value if value != ""
      }, var.settings)

      # The installation's own secrets; all controls have the same.
      template {
        destination = "secrets/yurt/secrets.json"
        perms       = "0600"
        change_mode = "restart"
        data        = "{{ with nomadVar \"nomad/jobs/system-control\" }}{{ .secrets }}{{ end }}"
      }

      template {
        destination = "secrets/control.env"
        perms       = "0600"
        env         = true
        data        = <<-EOT
          {{- with nomadVar "nomad/jobs/system-control" }}
          YURT_DATABASE_URL={{ .database_url }}
          {{- with .nomad_token }}
          YURT_NOMAD_TOKEN={{ . }}
          {{- end }}
          {{- with .consul_token }}
          YURT_CONSUL_TOKEN={{ . }}
          {{- end }}
          {{- end }}
        EOT
      }

      resources {
        cpu    = 500
        memory = var.memory
      }
    }
  }
}
