# The registry where nodes find images, on one node: Debian's docker-registry. See README.md.

variable "node" {
  description = "Name of the node that runs it and has its data."
  type        = string
}

variable "data" {
  description = "Directory of its data on that node; made if it is not there."
  type        = string
  default     = "/var/lib/yurt-registry"
}

variable "port" {
  description = "TCP port where nodes and control reach it."
  type        = number
  default     = 5000
}

variable "namespace" {
  description = "Nomad's namespace for this job."
  type        = string
  default     = "default"
}

variable "node_pool" {
  description = "Node pool of that node."
  type        = string
  default     = "default"
}

job "system-registry" {
  namespace   = var.namespace
  node_pool   = var.node_pool
  datacenters = ["*"]
  type        = "service"
  priority    = 70

  constraint {
    attribute = "${node.unique.name}"
    value     = var.node
  }

  group "registry" {
    network {
      port "registry" {
        static = var.port
      }
    }

    restart {
      attempts = 10
      interval = "10m"
      delay    = "5s"
      mode     = "delay"
    }

    service {
      name     = "yurt-registry"
      provider = "nomad"
      port     = "registry"

      check {
        type     = "http"
        path     = "/v2/"
        interval = "10s"
        timeout  = "3s"
      }
    }

    task "registry" {
      driver = "raw_exec"

      config {
        command = "docker-registry"
        args    = ["serve", "${NOMAD_TASK_DIR}/registry.yml"]
      }

      template {
        destination = "local/registry.yml"
        data        = <<-EOT
          version: 0.1
          log:
            level: warn
          storage:
            filesystem:
              rootdirectory: ${var.data}
            delete:
              enabled: true
          http:
            addr: {{ env "NOMAD_ADDR_registry" }}
        EOT
      }

      resources {
        cpu    = 200
        memory = 256
      }
    }
  }
}
