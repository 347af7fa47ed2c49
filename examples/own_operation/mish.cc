// OwnMish: y = x * tanh(log(1 + exp(x))), of float32 (Misra, 2019), on the threads of TensorFlow's pool.
#include <cmath>

#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/util/work_sharder.h"

using namespace tensorflow;

REGISTER_OP("OwnMish").Input("x: float").Output("y: float").SetShapeFn([](shape_inference::InferenceContext* c) {
  c->set_output(0, c->input(0));
  return absl::OkStatus();
});

class OwnMish : public OpKernel {
 public:
  using OpKernel::OpKernel;
  void Compute(OpKernelContext* context) override {
    Tensor* y = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, context->input(0).shape(), &y));
    const float* from = context->input(0).flat<float>().data();
    float* to = y->flat<float>().data();
    const auto* workers = context->device()->tensorflow_cpu_worker_threads();
    Shard(workers->num_threads, workers->workers, y->NumElements(), 50, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        to[i] = from[i] * std::tanh(std::fmax(from[i], 0) + std::log1p(std::exp(-std::abs(from[i]))));
    });
  }
};
REGISTER_KERNEL_BUILDER(Name("OwnMish").Device(DEVICE_CPU), OwnMish);

#if GOOGLE_CUDA  // Defined where mish.cu has been compiled.
#include "xla/stream_executor/stream.h"
void MishOnGpu(const float* x, float* y, int64_t n, void* stream);

class OwnMishOnGpu : public OpKernel {
 public:
  using OpKernel::OpKernel;
  void Compute(OpKernelContext* context) override {
    Tensor* y = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, context->input(0).shape(), &y));
    void* stream = context->op_device_context()->stream()->platform_specific_handle().stream;
    MishOnGpu(context->input(0).flat<float>().data(), y->flat<float>().data(), y->NumElements(), stream);
  }
};
REGISTER_KERNEL_BUILDER(Name("OwnMish").Device(DEVICE_GPU), OwnMishOnGpu);
#endif
