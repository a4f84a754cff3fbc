"""The Celery application. It reads and connects to nothing before a worker starts or a message is sent.

A message says only that there is work. The database decides which block a worker takes, when the worker is free. So a
message that is lost, doubled or late does no harm, and the settings here need not prevent any of it.
"""

from __future__ import annotations

from typing import Any

from celery import Celery

from labeler.settings import Settings

LABEL_QUEUE, GATHER_QUEUE, ACTIVATIONS_QUEUE = "label", "gather", "activations"
LABEL_SECONDS = 2 * 3600  # of one block: 128 features whose requests all exhaust their patience take less
GATHER_SECONDS = 24 * 3600  # of one shard, more than any takes; no limit ends a longer one

DEFAULT_BROKER = "redis://127.0.0.1:6379/0"


def _configuration() -> dict[str, Any]:
    return {
        "broker_url": Settings.from_environment().redis or DEFAULT_BROKER,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "visibility_timeout": GATHER_SECONDS + 3600,  # beyond the longest task
            "socket_timeout": 10.0,
            "socket_connect_timeout": 5.0,
            "socket_keepalive": True,
            "queue_order_strategy": "priority",  # a worker of several queues empties the first one first
        },
        "result_backend": None,
        "task_ignore_result": True,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "worker_cancel_long_running_tasks_on_connection_loss": False,  # their results go into the database all the same
        "task_create_missing_queues": True,
        "task_default_queue": LABEL_QUEUE,
        "task_routes": {
            "workers.label_block": LABEL_QUEUE,
            "workers.gather_block": GATHER_QUEUE,
            "workers.activations": ACTIVATIONS_QUEUE,
        },
        "worker_send_task_events": True,  # for Flower
        "worker_hijack_root_logger": False,
        "enable_utc": True,
    }


app = Celery("labeler", include=["workers.tasks", "workers.lifecycle"])
app.add_defaults(_configuration)
