// TowerUpdate: looks at all gradients, then, where all of them are finite, clips, applies the optimizer, L2 and moving
// averages and counts the step, in one pass over the parameters. trainer/ops/update.py documents it.

#define EIGEN_USE_THREADS

#include <algorithm>
#include <atomic>
#include <cmath>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/tensor_util.h"
#include "tensorflow/core/util/work_sharder.h"
#include "update_rules.h"
#include "kernel.h"

namespace tower {
namespace {

using tensorflow::Var;

constexpr int64_t kPart = 16384;  // elements that one thread does at a time

// The optimizers by name, with the slots that each has of a variable: one rule for shape function and kernel.
struct Known {
  const char* name;
  Optimizer optimizer;
  int slots;
  int powers;
};
constexpr Known kKnown[] = {{"sgd", Optimizer::kSgd, 0, 0},
                            {"momentum", Optimizer::kMomentum, 1, 0},
                            {"nesterov", Optimizer::kNesterov, 1, 0},
                            {"rmsprop", Optimizer::kRmsprop, 2, 0},
                            {"adam", Optimizer::kAdam, 2, 2}};

absl::StatusOr<Known> Find(const std::string& name) {
  for (const Known& known : kKnown) {
    if (name == known.name) return known;
  }
  return Invalid("optimizer=", name, " is unknown");
}

// How many tensors of each kind belong together.
absl::Status CheckCounts(const Known& known, int64_t gradients, int64_t variables, int64_t slots, int64_t averages,
                         int64_t powers, int64_t decays) {
  if (variables != gradients) {
    return Invalid(gradients, " gradients for ", variables, " variables");
  }
  if (slots != known.slots * variables) {
    return Invalid(slots, " slots; ", known.name, " has ", known.slots, " of each variable");
  }
  if (averages != 0 && averages != variables) {
    return Invalid(averages, " averages for ", variables, " variables");
  }
  if (powers != known.powers) {
    return Invalid(powers, " powers; ", known.name, " has ", known.powers);
  }
  if (decays != 0 && decays != variables) {
    return Invalid(decays, " decays for ", variables, " variables");
  }
  return absl::OkStatus();
}

REGISTER_OP("TowerUpdate")
    .Input("checked: checked_count * float")
    .Input("gradients: gradient_count * float")
    .Input("variables: variable_count * resource")
    .Input("slots: slot_count * resource")
    .Input("averages: average_count * resource")
    .Input("powers: power_count * resource")
    .Input("step: resource")
    .Input("position: resource")
    .Input("skipped: resource")
    .Input("rate: float")
    .Output("not_finite: int64")
    .Attr("checked_count: int >= 0")
    .Attr("gradient_count: int >= 1")
    .Attr("variable_count: int >= 1")
    .Attr("slot_count: int >= 0")
    .Attr("average_count: int >= 0")
    .Attr("power_count: int >= 0")
    .Attr("optimizer: string")
    .Attr("momentum: float = 0.0")
    .Attr("rho: float = 0.0")
    .Attr("beta1: float = 0.9")
    .Attr("beta2: float = 0.999")
    .Attr("epsilon: float = 1e-8")
    .Attr("decays: list(float) = []")
    .Attr("average_decay: float = 0.0")
    .Attr("clip: {'none', 'norm', 'global_norm', 'value', 'clip_to_zero'} = 'none'")
    .Attr("maximum: float = 0.0")
    .Attr("batch_size: int >= 1")
    .Attr("skips: bool = false")
    .SetIsStateful()
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* c) {
      int64_t gradients, variables, slots, averages, powers, checked;
      std::string name;
      std::vector<float> decays;
      TF_RETURN_IF_ERROR(c->GetAttr("gradient_count", &gradients));
      TF_RETURN_IF_ERROR(c->GetAttr("variable_count", &variables));
      TF_RETURN_IF_ERROR(c->GetAttr("slot_count", &slots));
      TF_RETURN_IF_ERROR(c->GetAttr("average_count", &averages));
      TF_RETURN_IF_ERROR(c->GetAttr("power_count", &powers));
      TF_RETURN_IF_ERROR(c->GetAttr("checked_count", &checked));
      TF_RETURN_IF_ERROR(c->GetAttr("decays", &decays));
      TF_RETURN_IF_ERROR(c->GetAttr("optimizer", &name));
      TF_ASSIGN_OR_RETURN(const Known known, Find(name));
      TF_RETURN_IF_ERROR(CheckCounts(known, gradients, variables, slots, averages, powers, decays.size()));
      // Each variable, slot and average has the shape of the gradient.
      const int64_t kinds = 1 + known.slots + (averages ? 1 : 0);
      for (int64_t i = 0; i < variables; ++i) {
        tensorflow::shape_inference::ShapeHandle shape = c->input(checked + i);
        for (int64_t kind = 0; kind < kinds; ++kind) {
          const auto* handle = c->input_handle_shapes_and_types(checked + gradients + kind * variables + i);
          if (handle == nullptr || handle->empty()) continue;
          if ((*handle)[0].dtype != tensorflow::DT_FLOAT) {
            return Invalid("variable ", i, " is not float32");
          }
          TF_RETURN_IF_ERROR(c->Merge(shape, (*handle)[0].shape, &shape));
        }
      }
      tensorflow::shape_inference::ShapeHandle unused;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(c->num_inputs() - 1), 0, &unused));
      c->set_output(0, c->Matrix(c->UnknownDim(), 2));
      return absl::OkStatus();
    });

class UpdateOp : public OpKernel {
 public:
  explicit UpdateOp(OpKernelConstruction* context) : OpKernel(context) {
    std::string name, clip;
    int64_t slots, powers, gradients;
    OP_REQUIRES_OK(context, context->GetAttr("optimizer", &name));
    auto known = Find(name);
    OP_REQUIRES_OK(context, known.status());
    known_ = *known;
    OP_REQUIRES_OK(context, context->GetAttr("checked_count", &first_));
    OP_REQUIRES_OK(context, context->GetAttr("gradient_count", &gradients));
    OP_REQUIRES_OK(context, context->GetAttr("variable_count", &count_));
    OP_REQUIRES_OK(context, context->GetAttr("slot_count", &slots));
    OP_REQUIRES_OK(context, context->GetAttr("average_count", &averages_));
    OP_REQUIRES_OK(context, context->GetAttr("power_count", &powers));
    OP_REQUIRES_OK(context, context->GetAttr("decays", &decays_));
    OP_REQUIRES_OK(context, CheckCounts(known_, gradients, count_, slots, averages_, powers, decays_.size()));
    OP_REQUIRES_OK(context, context->GetAttr("momentum", &rule_.momentum));
    OP_REQUIRES_OK(context, context->GetAttr("rho", &rule_.rho));
    OP_REQUIRES_OK(context, context->GetAttr("beta1", &rule_.beta1));
    OP_REQUIRES_OK(context, context->GetAttr("beta2", &rule_.beta2));
    OP_REQUIRES_OK(context, context->GetAttr("epsilon", &rule_.epsilon));
    OP_REQUIRES_OK(context, context->GetAttr("average_decay", &average_decay_));
    OP_REQUIRES_OK(context, context->GetAttr("clip", &clip_));
    OP_REQUIRES_OK(context, context->GetAttr("maximum", &maximum_));
    OP_REQUIRES_OK(context, context->GetAttr("batch_size", &batch_size_));
    OP_REQUIRES_OK(context, context->GetAttr("skips", &skips_));
    rule_.optimizer = known_.optimizer;
    columns_ = first_ + count_;
  }

  void Compute(OpKernelContext* context) override {
    State state;
    OP_REQUIRES_OK(context, Open(context, &state));
    std::vector<bool> bad(columns_ + 1, false);
    std::vector<double> squares(count_, 0.0);
    LookAt(context, state, &squares, &bad);
    std::vector<Clip> clips(count_);
    const bool outlier = MakeClips(squares, &clips, &bad);
    if (std::find(bad.begin(), bad.end(), true) != bad.end()) {
      OP_REQUIRES_OK(context, Refuse(context, state, bad, outlier));
      return;
    }
    OP_REQUIRES_OK(context, Apply(context, &state, clips));
    Tensor* none = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({0, 2}), &none));
  }

 private:
  struct State {
    std::vector<tensorflow::core::RefCountPtr<Var>> held;  // in the order of the inputs
    std::vector<tensorflow::mutex_lock> locks;
  };

  int64_t num_large() const { return count_ * (1 + known_.slots) + averages_; }

  // Finds and locks all variables, by address, and looks whether they are what the attributes say.
  absl::Status Open(OpKernelContext* context, State* state) {
    const Tensor& rate = context->input(context->num_inputs() - 1);
    if (!tensorflow::TensorShapeUtils::IsScalar(rate.shape())) {
      return Invalid("the rate is no scalar: ", rate.shape().DebugString());
    }
    const int64_t total = num_large() + known_.powers + 3;
    std::vector<tensorflow::mutex*> mutexes;
    for (int64_t i = 0; i < total; ++i) {
      tensorflow::core::RefCountPtr<Var> variable;
      TF_RETURN_IF_ERROR(
          tensorflow::LookupResource(context, tensorflow::HandleFromInput(context, columns_ + i), &variable));
      mutexes.push_back(variable->mu());
      state->held.push_back(std::move(variable));
    }
    std::sort(mutexes.begin(), mutexes.end());
    if (std::adjacent_find(mutexes.begin(), mutexes.end()) != mutexes.end()) {
      return Invalid("a variable is given twice");
    }
    state->locks.reserve(mutexes.size());
    for (tensorflow::mutex* each : mutexes) state->locks.emplace_back(*each);
    for (int64_t i = 0; i < total; ++i) TF_RETURN_IF_ERROR(CheckVariable(context, *state->held[i], i));
    return absl::OkStatus();
  }

  absl::Status CheckVariable(OpKernelContext* context, Var& variable, int64_t i) {
    const bool is_counter = i >= num_large() + known_.powers;
    const auto wanted = is_counter ? tensorflow::DT_INT64 : tensorflow::DT_FLOAT;
    const std::string& name = requested_input(columns_ + i);
    if (!variable.is_initialized)
      return absl::FailedPreconditionError(absl::StrCat("variable ", name, " has no value yet"));
    const Tensor& tensor = *variable.tensor();
    if (tensor.dtype() != wanted) {
      return Invalid("variable ", name, " is of ", tensorflow::DataTypeString(tensor.dtype()), "; wanted ",
                     tensorflow::DataTypeString(wanted));
    }
    const TensorShape shape = i < num_large() ? context->input(first_ + i % count_).shape() : TensorShape();
    if (tensor.shape() != shape) {
      return Invalid("variable ", name, " is of shape ", tensor.shape().DebugString(), "; wanted ",
                     shape.DebugString());
    }
    return absl::OkStatus();
  }

  // Runs work(variable, begin, end) on all gradients, in parts of one size, whatever the number of threads.
  template <typename Work>
  void ForParts(OpKernelContext* context, int64_t cost, const Work& work) {
    std::vector<std::pair<int64_t, int64_t>> parts;
    for (int64_t i = 0; i < count_; ++i) {
      const int64_t size = context->input(first_ + i).NumElements();
      for (int64_t begin = 0; begin < size; begin += kPart) parts.emplace_back(i, begin);
    }
    const auto* workers = context->device()->tensorflow_cpu_worker_threads();
    tensorflow::Shard(workers->num_threads, workers->workers, parts.size(), cost * kPart / 16,
                      [&](int64_t from, int64_t to) {
                        for (int64_t p = from; p < to; ++p) {
                          const auto [i, begin] = parts[p];
                          const int64_t size = context->input(first_ + i).NumElements();
                          work(i, begin, std::min(size, begin + kPart));
                        }
                      });
  }

  float decay_of(int64_t i) const { return decays_.empty() ? 0.0f : decays_[i]; }

  // Looks at what is to be finite besides the gradients, and at these: which columns are not finite, and the sums of
  // squares where clipping asks for them.
  void LookAt(OpKernelContext* context, const State& state, std::vector<double>* squares, std::vector<bool>* bad) {
    for (int64_t column = 0; column < first_; ++column) {
      const Tensor& tensor = context->input(column);
      (*bad)[column] = AnyNotFinite(tensor.flat<float>().data(), tensor.NumElements());
    }
    std::vector<std::atomic<bool>> found(count_);
    for (auto& each : found) each = false;
    const bool measures = clip_ != "none" && clip_ != "value";
    std::vector<std::vector<double>> sums(count_);
    for (int64_t i = 0; i < count_; ++i) {
      sums[i].resize((context->input(first_ + i).NumElements() + kPart - 1) / kPart);
    }
    ForParts(context, measures ? 4 : 2, [&](int64_t i, int64_t begin, int64_t end) {
      const float* gradient = context->input(first_ + i).flat<float>().data();
      const float* weight = state.held[i]->tensor()->flat<float>().data();
      const Seen seen = Look(gradient + begin, weight + begin, decay_of(i), end - begin, measures);
      if (seen.not_finite) found[i] = true;
      sums[i][begin / kPart] = seen.squares;
    });
    for (int64_t i = 0; i < count_; ++i) {
      (*bad)[first_ + i] = found[i];
      for (double sum : sums[i]) (*squares)[i] += sum;
    }
  }

  // Computes how each gradient is clipped; returns whether all of them together are too large to be applied.
  bool MakeClips(const std::vector<double>& squares, std::vector<Clip>* clips, std::vector<bool>* bad) {
    if (clip_ == "none") return false;
    if (clip_ == "value") {
      for (Clip& clip : *clips) clip.limits = true, clip.limit = maximum_;
      return false;
    }
    double total = 0;
    for (double each : squares) total += each;
    const float norm = std::sqrt(static_cast<float>(total));
    if (clip_ == "clip_to_zero") {
      // A norm that is not finite follows from a gradient that is not, which is told by its own column.
      const bool outlier = norm > maximum_;
      (*bad)[columns_] = outlier;
      return outlier;
    }
    for (int64_t i = 0; i < count_; ++i) {
      const float mine = clip_ == "norm" ? std::sqrt(static_cast<float>(squares[i])) : norm;
      Clip& clip = (*clips)[i];
      if (clip_ == "global_norm") {
        // As `tf.clip_by_global_norm`, which makes NaN of all gradients then.
        if (!std::isfinite(mine)) (*bad)[first_ + i] = true;
        clip.scales = true;
        clip.scale = maximum_ * std::min(1.0f / mine, 1.0f / maximum_);
      } else if (mine > maximum_) {
        clip.scales = true;
        clip.scale = maximum_ / mine;
      }
    }
    return false;
  }

  // Counts a step that is passed over, and tells what is not finite: [n, 2], the row, which is 0, and the column.
  absl::Status Refuse(OpKernelContext* context, const State& state, const std::vector<bool>& bad, bool outlier) {
    std::vector<int64_t> places;
    bool only_outlier = outlier;
    for (int64_t column = 0; column <= columns_; ++column) {
      if (!bad[column]) continue;
      places.push_back(column);
      only_outlier = only_outlier && column == columns_;
    }
    if (skips_ || (only_outlier && places.size() == 1)) {
      Counter(state, 1) += batch_size_;
      Counter(state, 2) += 1;
    }
    Tensor* told = nullptr;
    TF_RETURN_IF_ERROR(context->allocate_output(0, TensorShape({static_cast<int64_t>(places.size()), 2}), &told));
    auto matrix = told->matrix<int64_t>();
    for (size_t i = 0; i < places.size(); ++i) {
      matrix(i, 0) = 0;
      matrix(i, 1) = places[i];
    }
    return absl::OkStatus();
  }

  int64_t& Counter(const State& state, int number) {
    return *Own(state.held[num_large() + known_.powers + number].get())->scalar<int64_t>().data();
  }

  // Gives a small variable memory of its own, where somebody else reads what it had.
  static Tensor* Own(Var* variable) {
    Tensor* tensor = variable->tensor();
    if (!tensor->RefCountIsOne()) *tensor = tensorflow::tensor::DeepCopy(*tensor);
    return tensor;
  }

  absl::Status Apply(OpKernelContext* context, State* state, const std::vector<Clip>& clips) {
    Rule rule = rule_;
    rule.rate = context->input(context->num_inputs() - 1).scalar<float>()();
    if (known_.powers) {
      float* power1 = Own(state->held[num_large()].get())->scalar<float>().data();
      float* power2 = Own(state->held[num_large() + 1].get())->scalar<float>().data();
      rule.rate = rule.rate * std::sqrt(1 - *power2) / (1 - *power1);
      *power1 *= rule.beta1;
      *power2 *= rule.beta2;
    }
    const int64_t step = ++Counter(*state, 0);
    Counter(*state, 1) += batch_size_;
    const float steps = static_cast<float>(step);
    rule.average_rate = 1 - std::min(average_decay_, (1 + steps) / (10 + steps));
    // What somebody still reads is not written: the new values go to new memory.
    std::vector<Tensor> old(num_large()), now(num_large());
    for (int64_t i = 0; i < num_large(); ++i) {
      Tensor* tensor = state->held[i]->tensor();
      const bool is_alone = tensor->RefCountIsOne();
      old[i] = *tensor;
      now[i] = *tensor;
      if (!is_alone) TF_RETURN_IF_ERROR(context->allocate_temp(tensorflow::DT_FLOAT, tensor->shape(), &now[i]));
    }
    const auto at = [&](int64_t kind, int64_t i) { return kind * count_ + i; };
    const int64_t average = 1 + known_.slots;
    ForParts(context, 8, [&](int64_t i, int64_t begin, int64_t end) {
      const auto from = [&](int64_t kind) -> const float* { return old[at(kind, i)].flat<float>().data() + begin; };
      const auto to = [&](int64_t kind) -> float* { return now[at(kind, i)].flat<float>().data() + begin; };
      Part part;
      part.n = end - begin;
      part.gradient = context->input(first_ + i).flat<float>().data() + begin;
      part.decay = decay_of(i);
      part.old_weight = from(0), part.weight = to(0);
      if (known_.slots > 0) part.old_first = from(1), part.first = to(1);
      if (known_.slots > 1) part.old_second = from(2), part.second = to(2);
      if (averages_) part.old_average = from(average), part.average = to(average);
      UpdatePart(part, rule, clips[i]);
    });
    for (int64_t i = 0; i < num_large(); ++i) *state->held[i]->tensor() = now[i];
    return absl::OkStatus();
  }

  Known known_{};
  Rule rule_;
  std::string clip_;
  std::vector<float> decays_;
  int64_t count_ = 0, averages_ = 0, columns_ = 0, first_ = 0, batch_size_ = 0;
  float average_decay_ = 0, maximum_ = 0;
  bool skips_ = false;
};

REGISTER_KERNEL_BUILDER(Name("TowerUpdate").Device(tensorflow::DEVICE_CPU), UpdateOp);

}  // namespace
}  // namespace tower
