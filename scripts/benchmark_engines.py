"""What only predicts: onnxruntime and OpenVINO, on the ONNX file of our network, its batch size fixed."""

import numpy as np
from benchmark_cases import fingerprint, images, shape_of


class OnnxRuntime:
    """onnxruntime in float32: it has no bfloat16 kernels for this kind of processor."""

    def __init__(self, threads):
        import onnxruntime

        self.onnxruntime, self.threads = onnxruntime, threads

    def inference(self, name, batch, weights, onnx, variant):
        options = self.onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.add_free_dimension_override_by_name("N", batch)
        session = self.onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        x = images(shape_of(name), batch)[0]

        def run():
            return session.run(None, {"input": x})[0]

        return run, {"logits": fingerprint(run())}


class OpenVino:
    """OpenVINO, in the mode of least latency: one request on all threads."""

    def __init__(self, threads):
        import openvino

        self.openvino, self.threads = openvino, threads

    def inference(self, name, batch, weights, onnx, variant):
        core = self.openvino.Core()
        model = core.read_model(onnx)
        model.reshape([batch, *shape_of(name)])
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self.threads,
            "INFERENCE_PRECISION_HINT": "bf16" if variant == "bf16" else "f32",
        }
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        x = images(shape_of(name), batch)[0]

        def run():
            return request.infer([x], share_inputs=True, share_outputs=True)[0]

        return run, {"logits": fingerprint(np.array(run(), np.float32))}
