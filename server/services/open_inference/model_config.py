"""What a model that serves is, in the words of the Open Inference Protocol."""

from artifact.layout import INPUT, OUTPUT
from modelzoo.v1 import open_inference_pb2
from server.inference import Priority
from server.models.model import ReadyModel
from server.services.open_inference.tensors import PIXELS, PROBABILITIES

PLATFORM, BACKEND = "onnxruntime_onnx", "onnxruntime"
_ANY = -1  # length of an axis

Metadata = open_inference_pb2.ModelMetadataResponse


def metadata(model: ReadyModel) -> Metadata:
    """Describe a model's tensors, with an axis for the images."""
    return Metadata(
        name=model.status.name,
        versions=[str(model.status.version)],
        platform=PLATFORM,
        inputs=[Metadata.TensorMetadata(name=INPUT, datatype=PIXELS, shape=[_ANY, *_image_shape(model)])],
        outputs=[
            Metadata.TensorMetadata(name=OUTPUT, datatype=PROBABILITIES, shape=[_ANY, len(model.labels)])
        ],
    )


def config(model: ReadyModel) -> open_inference_pb2.ModelConfig:
    """Describe how a model is served; its tensors without an axis for the images."""
    files = {precision.name: precision.file.name for precision in model.manifest.precisions}
    return open_inference_pb2.ModelConfig(
        name=model.status.name,
        platform=PLATFORM,
        backend=BACKEND,
        version_policy=open_inference_pb2.ModelVersionPolicy(
            latest=open_inference_pb2.ModelVersionPolicy.Latest(num_versions=1)
        ),
        max_batch_size=model.status.max_batch_size,
        input=[
            open_inference_pb2.ModelInput(
                name=INPUT,
                data_type=open_inference_pb2.TYPE_UINT8,
                format=open_inference_pb2.ModelInput.FORMAT_NHWC,
                dims=_image_shape(model),
            )
        ],
        output=[
            open_inference_pb2.ModelOutput(
                name=OUTPUT,
                data_type=open_inference_pb2.TYPE_FP32,
                dims=[len(model.labels)],
                label_filename=model.manifest.labels.name,
            )
        ],
        instance_group=[_instance_group(model)],
        default_model_filename=files[model.status.precision],
        dynamic_batching=open_inference_pb2.ModelDynamicBatching(
            priority_levels=len(Priority),
            default_priority_level=1,
            default_queue_policy=open_inference_pb2.ModelQueuePolicy(
                allow_timeout_override=True, max_queue_size=model.max_queue_size
            ),
        ),
        model_transaction_policy=open_inference_pb2.ModelTransactionPolicy(decoupled=False),
    )


def _image_shape(model: ReadyModel) -> tuple[int, int, int]:
    shape = model.manifest.input
    return shape.height, shape.width, shape.channels


def _instance_group(model: ReadyModel) -> open_inference_pb2.ModelInstanceGroup:
    group = open_inference_pb2.ModelInstanceGroup
    ordinal = model.cuda_ordinal
    if ordinal is None:
        return group(name=model.status.device, kind=group.KIND_CPU)
    return group(name=model.status.device, kind=group.KIND_GPU, gpus=[ordinal])
