// TowerAugment: pad, crop, flip, cut out and normalize a batch of pictures in one pass. trainer/ops/augment.py
// documents it.

#define EIGEN_USE_THREADS

#include <algorithm>
#include <iterator>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "augment_rules.h"
#include "kernel.h"
#include "tensorflow/core/util/work_sharder.h"

namespace tower {
namespace {

struct Known {
  const char* name;
  Kind kind;
  int numbers;  // -1: one for each channel
};
constexpr Known kSteps[] = {{"multiply", Kind::kMultiply, -1},
                            {"add", Kind::kAdd, -1},
                            {"brightness", Kind::kBrightness, 2},
                            {"contrast", Kind::kContrast, 2},
                            {"standardize", Kind::kStandardize, 0}};

// Reads the attributes: one rule for shape function and kernel. `Context` is that of either.
template <typename Context>
absl::Status Read(Context* context, Augment* a) {
  int64_t seed;
  std::vector<std::string> names;
  std::vector<int64_t> places;
  std::vector<float> numbers;
  TF_RETURN_IF_ERROR(context->GetAttr("height", &a->height));
  TF_RETURN_IF_ERROR(context->GetAttr("width", &a->width));
  TF_RETURN_IF_ERROR(context->GetAttr("depth", &a->depth));
  TF_RETURN_IF_ERROR(context->GetAttr("pad", &a->pad));
  TF_RETURN_IF_ERROR(context->GetAttr("crop_height", &a->crop_height));
  TF_RETURN_IF_ERROR(context->GetAttr("crop_width", &a->crop_width));
  TF_RETURN_IF_ERROR(context->GetAttr("crop", &a->crop));
  TF_RETURN_IF_ERROR(context->GetAttr("flip", &a->flip));
  TF_RETURN_IF_ERROR(context->GetAttr("cutout", &a->cutout));
  TF_RETURN_IF_ERROR(context->GetAttr("hole", &a->hole));
  TF_RETURN_IF_ERROR(context->GetAttr("seed", &seed));
  TF_RETURN_IF_ERROR(context->GetAttr("steps", &names));
  TF_RETURN_IF_ERROR(context->GetAttr("numbers", &numbers));
  a->seed = static_cast<uint64_t>(seed);
  TF_RETURN_IF_ERROR(context->GetAttr("places", &places));
  if (places.size() != names.size()) {
    return Invalid(places.size(), " places of ", names.size(), " steps");
  }
  size_t used = 0;
  for (size_t i = 0; i < names.size(); ++i) {
    const auto* known =
        std::find_if(std::begin(kSteps), std::end(kSteps), [&](const Known& k) { return names[i] == k.name; });
    if (known == std::end(kSteps)) return Invalid("step ", names[i], " is unknown");
    const size_t count = known->numbers < 0 ? std::max<int64_t>(0, a->depth) : known->numbers;
    if (count > numbers.size() - used) {
      return Invalid(numbers.size(), " numbers are too few for the steps");
    }
    a->steps.push_back(
        {known->kind, std::vector<float>(numbers.begin() + used, numbers.begin() + used + count), places[i]});
    used += count;
  }
  if (used != numbers.size()) {
    return Invalid(numbers.size(), " numbers are too many for the steps");
  }
  const std::string damage = a->Damage();
  return damage.empty() ? absl::OkStatus() : Invalid(damage);
}

REGISTER_OP("TowerAugment")
    .Input("images: uint8")
    .Input("keys: int64")
    .Output("augmented: dtype")
    .Attr("dtype: {uint8, float, bfloat16}")
    .Attr("height: int")
    .Attr("width: int")
    .Attr("depth: int")
    .Attr("pad: int = 0")
    .Attr("crop_height: int")
    .Attr("crop_width: int")
    .Attr("crop: int = -1")
    .Attr("flip: int = -1")
    .Attr("cutout: int = -1")
    .Attr("hole: int = 0")
    .Attr("seed: int")
    .Attr("steps: list(string) = []")
    .Attr("numbers: list(float) = []")
    .Attr("places: list(int) = []")
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* c) {
      Augment a;
      TF_RETURN_IF_ERROR(Read(c, &a));
      tensorflow::shape_inference::ShapeHandle images, keys;
      TF_RETURN_IF_ERROR(c->Merge(c->input(0), c->MakeShape({c->UnknownDim(), a.height, a.width, a.depth}), &images));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 1, &keys));
      tensorflow::shape_inference::DimensionHandle n;
      TF_RETURN_IF_ERROR(c->Merge(c->Dim(images, 0), c->Dim(keys, 0), &n));
      c->set_output(0, c->MakeShape({n, a.crop_height, a.crop_width, a.depth}));
      return absl::OkStatus();
    });

template <typename T>
class AugmentOp : public OpKernel {
 public:
  explicit AugmentOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, Read(context, &augment_));
    if (std::is_same<T, uint8_t>::value) {
      OP_REQUIRES(context, augment_.steps.empty(), Invalid("uint8 goes through no steps of values"));
    }
    normalizer_ = std::make_unique<Normalizer>(augment_);
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &images = context->input(0), &keys = context->input(1);
    const int64_t n = keys.NumElements();
    TensorShape wanted({n});
    for (int64_t side : {augment_.height, augment_.width, augment_.depth}) {
      OP_REQUIRES_OK(context, wanted.AddDimWithStatus(side));
    }
    OP_REQUIRES(context, tensorflow::TensorShapeUtils::IsVector(keys.shape()) && images.shape() == wanted,
                Invalid("images are ", images.shape().DebugString(), " with keys ", keys.shape().DebugString(),
                        "; wanted ", wanted.DebugString()));
    Tensor* out = nullptr;
    TensorShape shape({n});
    for (int64_t side : {augment_.crop_height, augment_.crop_width, augment_.depth}) {
      OP_REQUIRES_OK(context, shape.AddDimWithStatus(side));
    }
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &out));
    const uint8_t* from = images.flat<uint8_t>().data();
    const int64_t* key = keys.flat<int64_t>().data();
    T* to = out->flat<T>().data();
    const int64_t in_size = augment_.height * augment_.width * augment_.depth;
    const int64_t row = augment_.row(), out_size = augment_.crop_height * row;
    const auto* workers = context->device()->tensorflow_cpu_worker_threads();
    tensorflow::Shard(workers->num_threads, workers->workers, n, out_size, [&](int64_t begin, int64_t end) {
      std::vector<uint8_t> bytes(row);
      std::vector<float> picture(std::is_same<T, tensorflow::bfloat16>::value ? out_size : 0);
      for (int64_t i = begin; i < end; ++i) {
        Make(from + i * in_size, key[i], bytes.data(), picture.data(), to + i * out_size);
      }
    });
  }

 private:
  void Make(const uint8_t* from, int64_t key, uint8_t* bytes, float* picture, T* out) const {
    const Drawn drawn = Draw(augment_, key);
    const int64_t rows = augment_.crop_height, row = augment_.row();
    if constexpr (std::is_same<T, uint8_t>::value) {
      for (int64_t r = 0; r < rows; ++r) MakeRow(augment_, drawn, from, r, out + r * row);
    } else {
      if constexpr (std::is_same<T, float>::value) picture = out;
      for (int64_t r = 0; r < rows; ++r) {
        MakeRow(augment_, drawn, from, r, bytes);
        normalizer_->StartRow(bytes, picture + r * row);
      }
      normalizer_->Finish(augment_, key, picture);
      if constexpr (!std::is_same<T, float>::value) {
        for (int64_t i = 0; i < rows * row; ++i) out[i] = static_cast<T>(picture[i]);
      }
    }
  }

  Augment augment_;
  std::unique_ptr<Normalizer> normalizer_;
};

#define REGISTER(T) \
  REGISTER_KERNEL_BUILDER(Name("TowerAugment").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("dtype"), AugmentOp<T>)
REGISTER(uint8_t);
REGISTER(float);
REGISTER(tensorflow::bfloat16);
#undef REGISTER

}  // namespace
}  // namespace tower
