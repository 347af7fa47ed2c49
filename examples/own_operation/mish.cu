// The kernel of OwnMish for GPUs; nvcc compiles it, without any header of TensorFlow's.
#include <cstdint>

__global__ void Mish(const float* x, float* y, int64_t n) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    y[i] = x[i] * tanhf(fmaxf(x[i], 0) + log1pf(expf(-fabsf(x[i]))));
  }
}

void MishOnGpu(const float* x, float* y, int64_t n, void* stream) {
  if (n > 0)
    Mish<<<(n + 255) / 256 < 4096 ? (n + 255) / 256 : 4096, 256, 0, static_cast<cudaStream_t>(stream)>>>(x, y, n);
}
