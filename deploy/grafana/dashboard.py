"""Prints the dashboard: `python deploy/grafana/dashboard.py > deploy/grafana/dashboards/modelzoo.json`.

It asks for the metrics of server/observability/metrics.py; docs/metrics.md says what to do about them.
"""

import json

from grafana import MODEL, Dashboard, Panel, Variable, highest, mean, quantile, rate, total

METHOD = "grpc_service, grpc_method"
REQUESTS = "modelzoo_requests_total"
OK = 'code="OK"'
STAGES = "modelzoo_stage_duration_seconds"

TRAFFIC = (
    Panel(
        "Requests by model",
        "reqps",
        "Classification requests that ended, whatever their status. `_unknown` stands for every name that no"
        " model has.",
        {"{{model}}": rate("model", REQUESTS, MODEL)},
    ),
    Panel(
        "Requests by status",
        "reqps",
        "Classification requests that ended, by gRPC status.",
        {"{{code}}": rate("code", REQUESTS, MODEL)},
    ),
    Panel(
        "Errors by model",
        "percentunit",
        "Share of a model's requests that did not end with OK, clients' mistakes included. Empty while there"
        " are no requests.",
        {"{{model}}": f"1 - {rate('model', REQUESTS, MODEL, OK)} / ({rate('model', REQUESTS, MODEL)} > 0)"},
        limits=(0, 1),
    ),
    Panel(
        "Images answered",
        "suffix: images/s",
        "Images in requests that ended with OK.",
        {"{{model}}": rate("model", "modelzoo_images_total", MODEL)},
    ),
    Panel(
        "Images not answered",
        "suffix: images/s",
        "Images that a full queue refused, that would have been late, with a deadline that passed or a caller"
        " that went away, or that the device failed.",
        {"{{model}} {{reason}}": rate("model, reason", "modelzoo_unanswered_images_total", MODEL)},
    ),
    Panel(
        "RPCs by method and status",
        "reqps",
        "Calls of the classifier service that ended, listing models included.",
        {"{{grpc_method}} {{grpc_code}}": rate(f"{METHOD}, grpc_code", "grpc_server_handled_total") + " > 0"},
    ),
    Panel(
        "Messages by method",
        "suffix: messages/s",
        "What came in and went out; of a stream, every request and every answer. A gap between the two that"
        " stays is what waits.",
        {
            "{{grpc_method}} received": rate(METHOD, "grpc_server_msg_received_total") + " > 0",
            "{{grpc_method}} sent": rate(METHOD, "grpc_server_msg_sent_total") + " > 0",
        },
    ),
    Panel(
        "Ended for what peers did",
        "suffix: /s",
        "Calls and connections that the server ended by itself: idle ones, those that others needed the room"
        " of, and those with unfinished messages or unread answers that held too much.",
        {"{{limit}}": rate("limit", "modelzoo_peer_limits_total")},
    ),
)

LATENCY = (
    Panel(
        "Latency by model",
        "s",
        "From a request's arrival to its answer, successful ones only, without the network: what half, nine"
        " tenths and ninety-nine hundredths of the requests did not exceed.",
        {
            f"{{{{model}}}} {name}": quantile(share, "model", "modelzoo_request_duration_seconds", MODEL)
            for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
        },
    ),
    *(
        Panel(
            f"Time per stage, {name}",
            "s",
            "Decoding and queueing count once a request, inference once a batch. Long queueing means a busy"
            " device, long decoding too few cores for the pictures that arrive.",
            {"{{model}} {{stage}}": quantile(share, "model, stage", STAGES, MODEL)},
        )
        for name, share in (("p50", 0.5), ("p99", 0.99))
    ),
    Panel(
        "RPC latency, p99",
        "s",
        "From a call's arrival to its end, failed ones included.",
        {"{{grpc_method}}": quantile(0.99, METHOD, "grpc_server_handling_seconds")},
    ),
    Panel(
        "RPCs in progress",
        "suffix: calls",
        "Calls that began and have not ended. A level that only rises means calls that hang.",
        {
            "{{grpc_method}}": f"{total(METHOD, 'grpc_server_started_total')}"
            f" - {total(METHOD, 'grpc_server_handled_total')}"
        },
    ),
    Panel(
        "Busy lanes",
        "percentunit",
        "Seconds of inference per second; 100 % is one lane that never rests. Where the sum comes near the"
        " number of lanes, every further request waits.",
        {"{{model}}": rate("model", f"{STAGES}_sum", MODEL, 'stage="infer"')},
        stacked=True,
    ),
)

BATCHING = (
    Panel(
        "Batch size, mean",
        "suffix: images",
        "Images that ran together. A mean of one while images wait means that batching does not work.",
        {"{{model}}": mean("model", "modelzoo_batch_size_images", MODEL)},
        width=6,
    ),
    Panel(
        "Batch size, distribution",
        "suffix: batches/s",
        "How many batches of each size ran per second, over all chosen models.",
        {"{{le}}": rate("le", "modelzoo_batch_size_images_bucket", MODEL)},
        kind="heatmap",
        width=6,
    ),
    Panel(
        "Images in queue",
        "suffix: images",
        "Images that wait for a batch, at the moment of the scrape.",
        {"{{model}}": total("model", "modelzoo_queue_images", MODEL)},
        width=6,
    ),
    Panel(
        "Queue against its limit",
        "percentunit",
        "Images that wait, of those of one priority that may. At 100 % of them requests are refused with"
        " RESOURCE_EXHAUSTED.",
        {
            "{{model}}": f"{total('model', 'modelzoo_queue_images', MODEL)}"
            f" / {total('model', 'modelzoo_queue_limit_images', MODEL)}"
        },
        width=6,
        limits=(0, 1),
    ),
    Panel(
        "Predicted time of a batch",
        "s",
        "What the batcher believes that a batch of each allowed size takes. It follows what batches do take,"
        " so a level that rises is a device, or a machine, that has got slower.",
        {"{{model}} {{batch_size}}": highest("model, batch_size", "modelzoo_batch_latency_seconds", MODEL)},
        width=18,
    ),
    Panel(
        "CUDA graphs",
        "none",
        "1 where batches replay captured graphs, 0 where a plain session runs, as it does on the CPU.",
        {"{{model}}": highest("model", "modelzoo_model_captured", MODEL)},
        width=6,
        limits=(0, 1),
    ),
)

MEMORY = (
    Panel(
        "Memory of models",
        "bytes",
        "What loading a model and warming it up took, measured then. `cpu` is the host.",
        {
            "{{model}} {{version}} {{device}}": total(
                "model, version, device", "modelzoo_model_memory_bytes", MODEL
            )
        },
        width=6,
        stacked=True,
    ),
    Panel(
        "Memory of the process",
        "bytes",
        "Resident memory of each server and of its front ends. If it rises for hours under steady traffic, it"
        " leaks.",
        {
            "{{instance}}": total("instance", "process_resident_memory_bytes"),
            "{{instance}} front end {{frontend}}": total(
                "instance, frontend", "modelzoo_frontend_resident_memory_bytes"
            ),
        },
        width=6,
    ),
    Panel(
        "Memory of the device",
        "bytes",
        "What all processes together take of a GPU's memory, and what there is. Empty where the server runs"
        " on the CPU.",
        {
            f"{{{{instance}}}} {{{{device}}}} {name}": total(
                "instance, device", f"modelzoo_device_memory_{name}_bytes"
            )
            for name in ("used", "total")
        },
        width=6,
    ),
    Panel(
        "Cores in use",
        "suffix: cores",
        "Processor time per second of each server, and of its front ends: decoding, gRPC and, without a GPU,"
        " inference.",
        {
            "{{instance}}": rate("instance", "process_cpu_seconds_total"),
            "{{instance}} front end {{frontend}}": rate(
                "instance, frontend", "modelzoo_frontend_cpu_seconds_total"
            ),
        },
        width=6,
    ),
)

MODELS = (
    Panel(
        "Models by state",
        "suffix: models",
        "How many models are in each state. `modelzoo status` gives the reason of `failed`.",
        {"{{state}}": total("state", "modelzoo_model_state", MODEL)},
        width=6,
        stacked=True,
    ),
    Panel(
        "State of each model",
        "none",
        "The state that each version of a model is in now.",
        {"": f"{highest('instance, model, version, state', 'modelzoo_model_state', MODEL)} == 1"},
        kind="table",
        width=6,
    ),
    Panel(
        "Loads that failed",
        "suffix: models",
        "Models that serve an older version because a newer one could not be loaded, and versions that FAILED"
        " per second. The log's line `model_failed` has the reason of each.",
        {
            "{{model}} serves an older version": highest("model", "modelzoo_model_fallback", MODEL),
            "{{model}} failed/s": rate("model", "modelzoo_model_load_failures_total", MODEL),
        },
        width=12,
    ),
    Panel(
        "Load time",
        "s",
        "How long loading a model, warming it up and checking its answers took.",
        {"{{model}} {{version}}": highest("model, version", "modelzoo_model_load_seconds", MODEL)},
        kind="stat",
        width=4,
    ),
    Panel(
        "Device",
        "none",
        "The device that each server runs on, and the one that was asked for.",
        {"": highest("instance, device, requested", "modelzoo_device_info")},
        kind="table",
        width=4,
    ),
    Panel(
        "Fallback to the CPU",
        "none",
        "YES where CUDA was tried and did not work, so that the CPU serves: the same answers, far later. The"
        " log's line `device_fallback` has the cause.",
        {"{{instance}}": highest("instance", "modelzoo_device_fallback")},
        kind="stat",
        width=4,
        alarm=("no", "YES"),
    ),
    Panel(
        "Front ends",
        "suffix: processes",
        "Processes that speak gRPC for each server; none where it does so itself.",
        {"{{instance}}": total("instance", "modelzoo_frontends")},
        width=12,
    ),
    Panel(
        "Front ends that ended",
        "suffix: processes/s",
        "Front ends that were replaced because they had ended, and those that did not say in time what they"
        " had counted. The log's line `frontend_ended` has the cause.",
        {
            "{{instance}} replaced": rate("instance", "modelzoo_frontend_restarts_total"),
            "{{instance}} silent": rate("instance", "modelzoo_frontend_reports_missed_total"),
        },
        width=12,
    ),
)

VITAL = (
    Panel(
        "Faults",
        "none",
        "Vital parts of a server that are out of order: 0 unless health says NOT_SERVING because of one. The"
        " log says which.",
        {"{{instance}}": total("instance", "modelzoo_faults")},
        width=12,
    ),
    Panel(
        "Failures of vital tasks",
        "suffix: failures/s",
        "Unexpected ends and hangs of tasks that a server cannot do without, its front ends' included. The"
        " log's lines `vital_task_ended`, `lane_hangs`, `frontend_hangs`, `engine_hangs` and"
        " `event_loop_blocked` have the causes.",
        {"{{instance}} {{task}}": rate("instance, task", "modelzoo_vital_task_failures_total")},
        width=12,
    ),
    Panel(
        "Log events dropped",
        "suffix: events/s",
        "Events that were not written to the log, because they came too fast or it cannot be written.",
        {"{{instance}} {{reason}}": rate("instance, reason", "modelzoo_log_events_dropped_total")},
        width=8,
    ),
    Panel(
        "Images that run",
        "suffix: images",
        "Images in batches that run at the moment of the scrape.",
        {"{{instance}}": total("instance", "modelzoo_running_images")},
        width=8,
    ),
    Panel(
        "Oldest batch",
        "s",
        "How long the oldest batch that runs has been running: one that only grows hangs.",
        {"{{instance}}": highest("instance", "modelzoo_oldest_batch_seconds")},
        width=8,
    ),
)

DASHBOARD = Dashboard(
    uid="modelzoo-overview",
    title="modelzoo",
    description="Traffic, latency, batching, memory and models of modelzoo's servers.",
    datasource_uid="modelzoo-prometheus",
    variables=(
        Variable("instance", "Server", "label_values(modelzoo_device_info, instance)"),
        Variable("model", "Model", 'label_values(modelzoo_model_state{instance=~"$instance"}, model)'),
    ),
    rows={
        "Traffic": TRAFFIC,
        "Latency and load": LATENCY,
        "Batching and queues": BATCHING,
        "Memory and cores": MEMORY,
        "Models and device": MODELS,
        "Vital parts": VITAL,
    },
)

if __name__ == "__main__":
    print(json.dumps(DASHBOARD.to_json(), indent=2))
