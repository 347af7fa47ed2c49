// TowerRecords: records of memory-mapped shards, by their numbers, straight into a batch. trainer/ops/records.py
// documents it.

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "record_rules.h"
#include "kernel.h"
#include "tensorflow/core/lib/hash/crc32c.h"

namespace tower {
namespace {

constexpr int64_t kMostImageBytes = int64_t{1} << 31;

// A page of a file that has become shorter, or that the disk does not give, is SIGBUS: here it is an error of the
// operation. The handler of others gets what comes from elsewhere.
thread_local sigjmp_buf* reading = nullptr;
struct sigaction before;

void OnBus(int number, siginfo_t* info, void* context) {
  if (reading != nullptr) siglongjmp(*reading, 1);
  if (before.sa_flags & SA_SIGINFO) {
    before.sa_sigaction(number, info, context);
  } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
    before.sa_handler(number);
  } else {
    signal(number, SIG_DFL);
    raise(number);
  }
}

void CatchBus() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction mine = {};
    mine.sa_sigaction = OnBus;
    mine.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
    sigaction(SIGBUS, &mine, &before);
  });
}

// A mapped shard.
class Shard {
 public:
  Shard() = default;
  Shard(Shard&& other) noexcept : data_(other.data_), bytes_(other.bytes_) { other.data_ = nullptr; }
  Shard(const Shard&) = delete;
  ~Shard() {
    if (data_ != nullptr) munmap(data_, bytes_);
  }

  absl::Status Open(const std::string& path, int64_t bytes) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) return absl::NotFoundError(absl::StrCat(path, ": ", std::strerror(errno)));
    struct stat found;
    absl::Status status;
    if (fstat(file, &found) != 0 || found.st_size != bytes) {
      status =
          absl::DataLossError(absl::StrCat(path, " does not have the ", bytes,
                                           " bytes that its manifest says: a shard holds another number of records"));
    } else {
      void* data = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, file, 0);
      if (data == MAP_FAILED) {
        status = absl::ResourceExhaustedError(absl::StrCat(path, " cannot be mapped: ", std::strerror(errno)));
      } else {
        data_ = data;
        bytes_ = bytes;
      }
    }
    close(file);
    return status;
  }

  bool is_open() const { return data_ != nullptr; }
  const char* at(int64_t offset) const { return static_cast<const char*>(data_) + offset; }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

// One rule for shape function and kernel.
absl::Status CheckShape(const std::vector<int64_t>& shape, int64_t* bytes) {
  if (shape.size() != 3) return Invalid("the shape of an image is height, width, depth");
  *bytes = 1;
  for (int64_t side : shape) {
    if (side < 1 || side > kMostImageBytes / *bytes) {
      return Invalid("an image of side ", side, " is impossible");
    }
    *bytes *= side;
  }
  return absl::OkStatus();
}

REGISTER_OP("TowerRecords")
    .Input("numbers: int64")
    .Output("images: uint8")
    .Output("labels: int32")
    .Attr("paths: list(string) >= 1")
    .Attr("counts: list(int) >= 1")
    .Attr("frame_bytes: int")
    .Attr("shape: list(int)")
    .Attr("image: int")
    .Attr("label: int")
    .Attr("classes: int")
    .Attr("offsets: list(int)")
    .Attr("constants: list(string)")
    .SetIsStateful()
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* c) {
      std::vector<int64_t> shape;
      int64_t bytes;
      TF_RETURN_IF_ERROR(c->GetAttr("shape", &shape));
      TF_RETURN_IF_ERROR(CheckShape(shape, &bytes));
      tensorflow::shape_inference::ShapeHandle numbers;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 1, &numbers));
      std::vector<tensorflow::shape_inference::DimensionHandle> sides = {c->Dim(numbers, 0)};
      for (int64_t side : shape) sides.push_back(c->MakeDim(side));
      c->set_output(0, c->MakeShape(sides));
      c->set_output(1, numbers);
      return absl::OkStatus();
    });

class RecordsOp : public OpKernel {
 public:
  explicit RecordsOp(OpKernelConstruction* context) : OpKernel(context) {
    std::vector<int64_t> counts, offsets;
    std::vector<std::string> constants;
    OP_REQUIRES_OK(context, context->GetAttr("paths", &paths_));
    OP_REQUIRES_OK(context, context->GetAttr("counts", &counts));
    OP_REQUIRES_OK(context, context->GetAttr("frame_bytes", &layout_.frame_bytes));
    OP_REQUIRES_OK(context, context->GetAttr("shape", &shape_));
    OP_REQUIRES_OK(context, CheckShape(shape_, &layout_.image_bytes));
    OP_REQUIRES_OK(context, context->GetAttr("image", &layout_.image));
    OP_REQUIRES_OK(context, context->GetAttr("label", &layout_.label));
    OP_REQUIRES_OK(context, context->GetAttr("classes", &layout_.classes));
    OP_REQUIRES_OK(context, context->GetAttr("offsets", &offsets));
    OP_REQUIRES_OK(context, context->GetAttr("constants", &constants));
    OP_REQUIRES(context, offsets.size() == constants.size(),
                Invalid(offsets.size(), " offsets of ", constants.size(), " constants"));
    for (size_t i = 0; i < offsets.size(); ++i) layout_.constant.emplace_back(offsets[i], constants[i]);
    const std::string damage = layout_.Damage();
    OP_REQUIRES(context, damage.empty(), Invalid("wrong layout of the records: ", damage));
    OP_REQUIRES(context, counts.size() == paths_.size(),
                Invalid(counts.size(), " counts of ", paths_.size(), " shards"));
    firsts_.push_back(0);
    for (int64_t count : counts) {
      OP_REQUIRES(context, count >= 0 && count < (int64_t{1} << 62) / layout_.frame_bytes - firsts_.back(),
                  Invalid("a shard of ", count, " records is impossible"));
      firsts_.push_back(firsts_.back() + count);
    }
    shards_.resize(paths_.size());
    CatchBus();
  }

  void Compute(OpKernelContext* context) override {
    const Tensor& numbers = context->input(0);
    OP_REQUIRES(context, tensorflow::TensorShapeUtils::IsVector(numbers.shape()),
                Invalid("numbers are no vector: ", numbers.shape().DebugString()));
    const int64_t n = numbers.NumElements();
    TensorShape shape({n});
    for (int64_t side : shape_) OP_REQUIRES_OK(context, shape.AddDimWithStatus(side));
    Tensor *images = nullptr, *labels = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &images));
    OP_REQUIRES_OK(context, context->allocate_output(1, numbers.shape(), &labels));
    const int64_t* wanted = numbers.flat<int64_t>().data();
    uint8_t* image = images->flat<uint8_t>().data();
    int32_t* label = labels->flat<int32_t>().data();
    std::vector<const char*> frames(n);
    std::vector<int32_t> of_shard(n);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      for (int64_t i = 0; i < n; ++i) {
        OP_REQUIRES(context, wanted[i] >= 0 && wanted[i] < firsts_.back(),
                    Invalid("record ", wanted[i], " is out of range 0..", firsts_.back() - 1));
        const int64_t s = std::upper_bound(firsts_.begin(), firsts_.end(), wanted[i]) - firsts_.begin() - 1;
        if (!shards_[s].is_open()) {
          OP_REQUIRES_OK(context, shards_[s].Open(paths_[s], (firsts_[s + 1] - firsts_[s]) * layout_.frame_bytes));
        }
        of_shard[i] = static_cast<int32_t>(s);
        frames[i] = shards_[s].at((wanted[i] - firsts_[s]) * layout_.frame_bytes);
      }
    }
    int64_t failed = 0;
    const char* damage = Copy(frames, image, label, &failed);
    OP_REQUIRES(context, damage == nullptr,
                absl::DataLossError(absl::StrCat(paths_[of_shard[failed]], ": record ",
                                                 wanted[failed] - firsts_[of_shard[failed]], ": ", damage,
                                                 ": a shard is not what it was when the run began")));
  }

 private:
  // Copies all records; returns what is wrong with one, and which.
  const char* Copy(const std::vector<const char*>& frames, uint8_t* image, int32_t* label, int64_t* failed) const {
    const auto crc = [](const char* data, int64_t n) { return tensorflow::crc32c::Value(data, n); };
    constexpr int64_t kAhead = 4, kLine = 64;
    const int64_t n = frames.size();
    volatile int64_t at = 0;  // it outlives the jump
    sigjmp_buf back;
    sigjmp_buf* const outer = reading;
    if (sigsetjmp(back, 1) != 0) {
      reading = outer;
      *failed = at;
      return "the file gives no bytes there";
    }
    reading = &back;
    const char* damage = nullptr;
    for (int64_t i = 0; i < n && damage == nullptr; ++i) {
      at = i;
      if (i + kAhead < n) {
        for (int64_t line = 0; line < std::min<int64_t>(layout_.frame_bytes, 16 * kLine); line += kLine) {
          __builtin_prefetch(frames[i + kAhead] + line);
        }
      }
      damage = ReadFrame(layout_, frames[i], crc, image + i * layout_.image_bytes, label + i);
    }
    reading = outer;
    *failed = at;
    return damage;
  }

  std::vector<std::string> paths_;
  std::vector<int64_t> firsts_, shape_;  // number of the first record of each shard, and of all
  Layout layout_;
  std::mutex mutex_;
  std::vector<Shard> shards_;
};

REGISTER_KERNEL_BUILDER(Name("TowerRecords").Device(tensorflow::DEVICE_CPU), RecordsOp);

}  // namespace
}  // namespace tower
