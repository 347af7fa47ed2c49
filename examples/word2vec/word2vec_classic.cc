// The two operations of the classic tutorial, by their names, attributes and semantics: examples and labels of a file
// of words, and plain gradient descent pair by pair. What was wrong with them is not: w_in and w_out are resource
// variables, ids are checked, the seed decides all numbers, no batch is lost.

#include <algorithm>
#include <cmath>
#include <fstream>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "word2vec_rules.h"
#include "word2vec_tables.h"

namespace word2vec {
namespace {

constexpr int64_t kMostBatch = 1 << 24;

REGISTER_OP("SkipgramWord2vec")
    .Output("vocab_word: string")
    .Output("vocab_freq: int32")
    .Output("words_per_epoch: int64")
    .Output("current_epoch: int32")
    .Output("total_words_processed: int64")
    .Output("examples: int32")
    .Output("labels: int32")
    .Attr("filename: string")
    .Attr("batch_size: int >= 1")
    .Attr("window_size: int = 5")
    .Attr("min_count: int = 5")
    .Attr("subsample: float = 1e-3")
    .Attr("seed: int = 0")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      int64_t batch;
      TF_RETURN_IF_ERROR(c->GetAttr("batch_size", &batch));
      for (int i = 0; i < 2; ++i) c->set_output(i, c->Vector(c->UnknownDim()));
      for (int i = 2; i < 5; ++i) c->set_output(i, c->Scalar());
      for (int i = 5; i < 7; ++i) c->set_output(i, c->Vector(batch));
      return absl::OkStatus();
    });

// Reads a file of words once, and gives a batch of pairs at each call. Word 0 is UNK, which no example has.
class SkipgramOp : public OpKernel {
 public:
  explicit SkipgramOp(OpKernelConstruction* context) : OpKernel(context) {
    std::string filename;
    int64_t min_count, seed;
    OP_REQUIRES_OK(context, context->GetAttr("filename", &filename));
    OP_REQUIRES_OK(context, context->GetAttr("batch_size", &batch_size_));
    OP_REQUIRES_OK(context, context->GetAttr("window_size", &window_));
    OP_REQUIRES_OK(context, context->GetAttr("min_count", &min_count));
    OP_REQUIRES_OK(context, context->GetAttr("subsample", &subsample_));
    OP_REQUIRES_OK(context, context->GetAttr("seed", &seed));
    OP_REQUIRES(context, batch_size_ <= kMostBatch, Invalid("batch_size=", batch_size_, " is above ", kMostBatch));
    OP_REQUIRES(context, window_ >= 1 && window_ <= kMaxWindow,
                Invalid("window_size=", window_, " is not within 1 to ", kMaxWindow));
    seed_ = static_cast<uint64_t>(seed);
    OP_REQUIRES_OK(context, Read(filename, min_count));
    Refill();
  }

  void Compute(OpKernelContext* context) override {
    tensorflow::mutex_lock lock(mutex_);
    context->set_output(0, words_);
    context->set_output(1, counts_);
    Tensor* outputs[7] = {};
    for (int i = 2; i < 7; ++i) {
      OP_REQUIRES_OK(context,
                     context->allocate_output(i, i < 5 ? TensorShape() : TensorShape({batch_size_}), &outputs[i]));
    }
    for (int64_t i = 0; i < batch_size_; ++i) {
      OP_REQUIRES_OK(context, Next(&outputs[5]->flat<int32_t>()(i), &outputs[6]->flat<int32_t>()(i)));
    }
    outputs[2]->scalar<int64_t>()() = ids_.size();
    outputs[3]->scalar<int32_t>()() = epoch_;
    outputs[4]->scalar<int64_t>()() = processed_;
  }

 private:
  absl::Status Read(const std::string& filename, int64_t min_count) {
    std::ifstream file(filename, std::ios::binary);
    if (!file) return absl::NotFoundError(absl::StrCat(filename, ": no such file"));
    std::unordered_map<std::string, int64_t> counted;
    std::vector<std::string> text;
    for (std::string word; file >> word;) {
      if (word.find('\0') != std::string::npos) return Invalid(filename, " is no text: it has a byte of 0");
      ++counted[word];
      text.push_back(word);
    }
    std::vector<std::pair<int64_t, std::string>> kept;
    for (const auto& [word, count] : counted) {
      if (count >= min_count) kept.emplace_back(-count, word);
    }
    if (kept.size() < 2) {
      return Invalid(filename, " has ", kept.size(), " different words that come ", min_count,
                     " times or more; wanted two");
    }
    std::sort(kept.begin(), kept.end());
    const int64_t n = kept.size() + 1;
    words_ = Tensor(tensorflow::DT_STRING, TensorShape({n}));
    counts_ = Tensor(tensorflow::DT_INT32, TensorShape({n}));
    std::unordered_map<std::string, int32_t> numbers;
    words_.flat<tstring>()(0) = "UNK";
    int64_t rest = text.size();
    for (int64_t i = 1; i < n; ++i) {
      words_.flat<tstring>()(i) = kept[i - 1].second;
      counts_.flat<int32_t>()(i) = static_cast<int32_t>(std::min<int64_t>(-kept[i - 1].first, INT32_MAX));
      numbers[kept[i - 1].second] = static_cast<int32_t>(i);
      rest += kept[i - 1].first;
    }
    counts_.flat<int32_t>()(0) = static_cast<int32_t>(std::min<int64_t>(rest, INT32_MAX));
    for (const std::string& word : text) {
      const auto found = numbers.find(word);
      ids_.push_back(found == numbers.end() ? 0 : found->second);
    }
    for (int64_t i = 0; i < n; ++i) {
      keep_.push_back(KeepThreshold(counts_.flat<int32_t>()(i) / static_cast<double>(ids_.size()), subsample_));
    }
    return absl::OkStatus();
  }

  // Takes the next kept words of the corpus into the sentence.
  void Refill() {
    sentence_.clear();
    places_.clear();
    for (size_t looked = 0; sentence_.size() < kSentence && looked < ids_.size() + kSentence; ++looked) {
      if (at_ == ids_.size()) {
        at_ = 0;
        ++epoch_;
        if (sentence_.size() > 1) break;  // A window never spans the end.
        sentence_.clear();
        places_.clear();
      }
      const int64_t place = epoch_ * static_cast<int64_t>(ids_.size()) + at_;
      const int32_t id = ids_[at_++];
      ++processed_;
      if (id != 0 && static_cast<uint32_t>(Random(seed_, place).Next() >> 32) <= keep_[id]) {
        sentence_.push_back(id);
        places_.push_back(place);
      }
    }
    center_ = 0;
    StartCenter();
  }

  void StartCenter() {
    if (center_ >= static_cast<int64_t>(sentence_.size())) return;
    Random random(seed_, places_[center_]);
    random.Next();
    const int64_t reach = 1 + static_cast<int64_t>((random.Next() >> 32) * window_ >> 32);
    context_ = std::max<int64_t>(0, center_ - reach);
    end_ = std::min<int64_t>(sentence_.size(), center_ + reach + 1);
  }

  absl::Status Next(int32_t* example, int32_t* label) {
    for (int attempts = 0; attempts < 1000;) {
      if (center_ >= static_cast<int64_t>(sentence_.size())) {
        Refill();
        ++attempts;
        continue;
      }
      if (context_ == center_) ++context_;
      if (context_ >= end_) {
        ++center_;
        StartCenter();
        continue;
      }
      *example = sentence_[center_];
      *label = sentence_[context_++];
      return absl::OkStatus();
    }
    return Invalid("subsample=", subsample_, " keeps no two words of the corpus");
  }

  int64_t batch_size_ = 0, window_ = 0, processed_ = 0, center_ = 0, context_ = 0, end_ = 0;
  int32_t epoch_ = 0;
  float subsample_ = 0;
  uint64_t seed_ = 0;
  size_t at_ = 0;
  Tensor words_, counts_;
  std::vector<int32_t> ids_, sentence_;
  std::vector<int64_t> places_;
  std::vector<uint32_t> keep_;
  tensorflow::mutex mutex_;
};
REGISTER_KERNEL_BUILDER(Name("SkipgramWord2vec").Device(tensorflow::DEVICE_CPU), SkipgramOp);

REGISTER_OP("NegTrainWord2vec")
    .Input("w_in: resource")
    .Input("w_out: resource")
    .Input("examples: int32")
    .Input("labels: int32")
    .Input("lr: float")
    .Attr("vocab_count: list(int)")
    .Attr("num_negative_samples: int")
    .Attr("seed: int = 0")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      tensorflow::shape_inference::ShapeHandle shape;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 1, &shape));
      TF_RETURN_IF_ERROR(c->Merge(shape, c->input(3), &shape));
      return c->WithRank(c->input(4), 0, &shape);
    });

// Moves both tables by each pair, one after the other.
class NegTrainOp : public OpKernel {
 public:
  explicit NegTrainOp(OpKernelConstruction* context) : OpKernel(context) {
    std::vector<int64_t> counts;
    int64_t seed;
    OP_REQUIRES_OK(context, context->GetAttr("vocab_count", &counts));
    OP_REQUIRES_OK(context, context->GetAttr("num_negative_samples", &negatives_));
    OP_REQUIRES_OK(context, context->GetAttr("seed", &seed));
    OP_REQUIRES(context, negatives_ >= 1, Invalid("num_negative_samples=", negatives_, " is less than 1"));
    std::vector<double> weights;
    for (int64_t count : counts) {
      OP_REQUIRES(context, count >= 0, Invalid("a count is ", count));
      weights.push_back(std::pow(static_cast<double>(count), 0.75));
    }
    OP_REQUIRES(context, std::any_of(weights.begin(), weights.end(), [](double w) { return w > 0; }),
                Invalid("no word is counted"));
    alias_ = Alias::Make(weights);
    seed_ = static_cast<uint64_t>(seed);
  }

  void Compute(OpKernelContext* context) override {
    tensorflow::core::RefCountPtr<Var> variables[2];
    for (int i = 0; i < 2; ++i) {
      OP_REQUIRES_OK(context,
                     tensorflow::LookupResource(context, tensorflow::HandleFromInput(context, i), &variables[i]));
    }
    OP_REQUIRES(context, variables[0].get() != variables[1].get(), Invalid("w_in and w_out are one variable"));
    const bool ordered = variables[0]->mu() < variables[1]->mu();
    tensorflow::mutex_lock first(*variables[ordered ? 0 : 1]->mu()), second(*variables[ordered ? 1 : 0]->mu());
    float* tables[2];
    int64_t d = 0;
    const int64_t words = alias_.stays.size();
    for (int i = 0; i < 2; ++i) {
      OP_REQUIRES_OK(context, OwnTable(context, variables[i].get()));
      Tensor* tensor = variables[i]->tensor();
      OP_REQUIRES(context, tensor->dim_size(0) == words && (i == 0 || tensor->dim_size(1) == d),
                  Invalid("w_in and w_out are float32 [", words, ", d], got ", tensor->shape().DebugString()));
      d = tensor->dim_size(1);
      tables[i] = tensor->flat<float>().data();
    }
    const Tensor &examples = context->input(2), &labels = context->input(3), &lr = context->input(4);
    OP_REQUIRES(context,
                tensorflow::TensorShapeUtils::IsVector(examples.shape()) && labels.shape() == examples.shape() &&
                    tensorflow::TensorShapeUtils::IsScalar(lr.shape()),
                Invalid("examples and labels are vectors of one length, and lr is a scalar"));
    const float rate = lr.scalar<float>()();
    OP_REQUIRES(context, std::isfinite(rate), Invalid("lr is not finite"));
    const auto *example = examples.flat<int32_t>().data(), *label = labels.flat<int32_t>().data();
    const int64_t n = examples.NumElements();
    for (int64_t i = 0; i < n; ++i) {
      OP_REQUIRES(context, example[i] >= 0 && example[i] < words && label[i] >= 0 && label[i] < words,
                  Invalid("pair ", i, ", (", example[i], ", ", label[i], "), is out of range 0..", words - 1));
    }
    std::vector<float> moved(d);
    for (int64_t i = 0; i < n; ++i) {
      float* in = tables[0] + example[i] * d;
      std::fill(moved.begin(), moved.end(), 0.0f);
      Random random(seed_, pairs_++);
      for (int64_t k = 0; k <= negatives_; ++k) {
        const int32_t id = k ? alias_.Draw(random.Next()) : label[i];
        if (k && id == label[i]) continue;
        float* out = tables[1] + id * d;
        float score = 0;
        for (int64_t c = 0; c < d; ++c) score += in[c] * out[c];
        const float error = ((k == 0) - Sigmoid(score)) * rate;
        for (int64_t c = 0; c < d; ++c) {
          moved[c] += error * out[c];
          out[c] += error * in[c];
        }
      }
      for (int64_t c = 0; c < d; ++c) in[c] += moved[c];
    }
  }

 private:
  int64_t negatives_ = 0;
  uint64_t seed_ = 0;
  int64_t pairs_ = 0;  // so far; under the locks of the variables
  Alias alias_;
};
REGISTER_KERNEL_BUILDER(Name("NegTrainWord2vec").Device(tensorflow::DEVICE_CPU), NegTrainOp);

}  // namespace
}  // namespace word2vec
