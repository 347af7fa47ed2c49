// Word vectors as TensorFlow operations: the two of the classic tutorial, `SkipgramWord2vec` and `NegTrainWord2vec`, on
// resource variables; `Word2vecTrain`, which does both at once and fast; and the counting of a corpus, one operation a
// verb on a resource.

#define EIGEN_USE_THREADS

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "tensorflow/core/util/work_sharder.h"
#include "word2vec_rules.h"
#include "word2vec_tables.h"
#include "xla/tsl/util/determinism.h"

namespace word2vec {
namespace {

constexpr int64_t kMostWords = int64_t{1} << 31;

// Both tables of a model, locked for reading: threads write without locks (hogwild), but nobody replaces a table.
struct Held {
  tensorflow::core::RefCountPtr<Var> in, out;
  std::unique_ptr<tensorflow::tf_shared_lock> first, second;
  Tables tables;
};

absl::Status Hold(OpKernelContext* context, Held* held) {
  TF_RETURN_IF_ERROR(tensorflow::LookupResource(context, tensorflow::HandleFromInput(context, 0), &held->in));
  TF_RETURN_IF_ERROR(tensorflow::LookupResource(context, tensorflow::HandleFromInput(context, 1), &held->out));
  if (held->in.get() == held->out.get()) return Invalid("w_in and w_out are one variable");
  // The values of sparse variables are copied for readers from now on, and written in place.
  for (Var* variable : {held->in.get(), held->out.get()}) {
    tensorflow::mutex_lock lock(*variable->mu());
    TF_RETURN_IF_ERROR(OwnTable(context, variable));
    variable->copy_on_read_mode = true;
  }
  Var *first = held->in.get(), *second = held->out.get();
  if (second->mu() < first->mu()) std::swap(first, second);
  held->first = std::make_unique<tensorflow::tf_shared_lock>(*first->mu());
  held->second = std::make_unique<tensorflow::tf_shared_lock>(*second->mu());
  const Tensor &in = *held->in->tensor(), &out = *held->out->tensor();
  if (in.shape() != out.shape()) {
    return Invalid("w_in is ", in.shape().DebugString(), " and w_out ", out.shape().DebugString(), ": wanted the same");
  }
  held->tables = {const_cast<float*>(in.flat<float>().data()), const_cast<float*>(out.flat<float>().data()),
                  in.dim_size(0), in.dim_size(1)};
  return absl::OkStatus();
}

absl::Status CheckSettings(int64_t window, int64_t negatives) {
  if (window < 1 || window > kMaxWindow) return Invalid("window_size=", window, " is not within 1 to ", kMaxWindow);
  if (negatives < 1 || negatives > kMaxNegatives) {
    return Invalid("num_negative_samples=", negatives, " is not within 1 to ", kMaxNegatives);
  }
  return absl::OkStatus();
}

absl::Status CheckCounts(const int64_t* counts, int64_t n) {
  if (n < 2) return Invalid("a vocabulary of ", n, " words: wanted at least two");
  if (n >= kMostWords) return Invalid("a vocabulary of ", n, " words is too large");
  for (int64_t i = 0; i < n; ++i) {
    if (counts[i] < 1) return Invalid("word ", i, " is counted ", counts[i], " times");
  }
  return absl::OkStatus();
}

Alias MakeAlias(const int64_t* counts, int64_t n) {
  std::vector<double> weights(n);
  for (int64_t i = 0; i < n; ++i) weights[i] = std::pow(static_cast<double>(counts[i]), 0.75);
  return Alias::Make(weights);
}

// ---- Word2vecTrain

REGISTER_OP("Word2vecTrain")
    .Input("w_in: resource")
    .Input("w_out: resource")
    .Input("counts: int64")
    .Input("ids: int32")
    .Input("position: int64")
    .Input("rates: float")
    .Output("centers: int64")
    .Output("pairs: int64")
    .Output("loss: float")
    .Attr("window_size: int = 5")
    .Attr("num_negative_samples: int = 5")
    .Attr("subsample: float = 1e-4")
    .Attr("seed: int")
    .Attr("threads: int = 0")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      int64_t window, negatives;
      TF_RETURN_IF_ERROR(c->GetAttr("window_size", &window));
      TF_RETURN_IF_ERROR(c->GetAttr("num_negative_samples", &negatives));
      TF_RETURN_IF_ERROR(CheckSettings(window, negatives));
      tensorflow::shape_inference::ShapeHandle shape;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 1, &shape));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(3), 1, &shape));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(4), 0, &shape));
      TF_RETURN_IF_ERROR(c->Merge(c->input(5), c->Vector(2), &shape));
      for (int i = 0; i < 3; ++i) c->set_output(i, c->Scalar());
      return absl::OkStatus();
    });

class TrainOp : public OpKernel {
 public:
  explicit TrainOp(OpKernelConstruction* context) : OpKernel(context) {
    int64_t seed;
    OP_REQUIRES_OK(context, context->GetAttr("window_size", &settings_.window));
    OP_REQUIRES_OK(context, context->GetAttr("num_negative_samples", &settings_.negatives));
    OP_REQUIRES_OK(context, CheckSettings(settings_.window, settings_.negatives));
    OP_REQUIRES_OK(context, context->GetAttr("subsample", &subsample_));
    OP_REQUIRES_OK(context, context->GetAttr("seed", &seed));
    OP_REQUIRES_OK(context, context->GetAttr("threads", &threads_));
    settings_.seed = static_cast<uint64_t>(seed);
  }

  void Compute(OpKernelContext* context) override {
    const Tensor &counts = context->input(2), &ids = context->input(3), &position = context->input(4);
    const Tensor& rates = context->input(5);
    OP_REQUIRES(context,
                tensorflow::TensorShapeUtils::IsVector(counts.shape()) &&
                    tensorflow::TensorShapeUtils::IsVector(ids.shape()) &&
                    tensorflow::TensorShapeUtils::IsScalar(position.shape()) && rates.shape() == TensorShape({2}),
                Invalid("wanted counts [words], ids [n], position [] and rates [2]"));
    const float first = rates.flat<float>()(0), last = rates.flat<float>()(1);
    OP_REQUIRES(context, std::isfinite(first) && std::isfinite(last),
                Invalid("a rate is not finite: ", first, ", ", last));
    Held held;
    OP_REQUIRES_OK(context, Hold(context, &held));
    OP_REQUIRES(context, counts.NumElements() == held.tables.words,
                Invalid(counts.NumElements(), " counts for ", held.tables.words, " words"));
    Settings settings = settings_;
    std::shared_ptr<const Drawing> drawing;
    OP_REQUIRES_OK(context, Prepare(counts, &drawing));
    settings.keep = drawing->keep.data();
    settings.alias = &drawing->alias;
    // Stretches of one size, whatever the number of threads: each begins its window anew.
    constexpr int64_t kStretch = 8192;
    const int64_t n = ids.NumElements(), stretches = (n + kStretch - 1) / kStretch;
    std::vector<Trained> trained(stretches);
    std::atomic<bool> legal(true);
    const int32_t* all = ids.flat<int32_t>().data();
    const auto work = [&](int64_t begin, int64_t end) {
      Trainer trainer(held.tables, settings);
      for (int64_t s = begin; s < end && legal; ++s) {
        const int64_t from = s * kStretch, to = std::min(n, from + kStretch);
        const auto rate = [&](int64_t i) {
          return first + (last - first) * static_cast<float>(i) / static_cast<float>(n);
        };
        if (!trainer.Train(all + from, to - from, position.scalar<int64_t>()() + from, rate(from), rate(to),
                           &trained[s])) {
          legal = false;
        }
      }
    };
    const auto* workers = context->device()->tensorflow_cpu_worker_threads();
    const bool alone = threads_ == 1 || tsl::OpDeterminismRequired();
    if (alone) {
      work(0, stretches);
    } else {
      const int64_t most = threads_ > 0 ? std::min<int64_t>(threads_, workers->num_threads) : workers->num_threads;
      tensorflow::Shard(most, workers->workers, stretches, 10'000'000, work);
    }
    OP_REQUIRES(context, legal, Invalid("an id is out of range -1..", held.tables.words - 1));
    Trained total;
    for (const Trained& each : trained) {
      total.centers += each.centers, total.pairs += each.pairs, total.loss += each.loss,
          total.measured += each.measured;
    }
    Tensor* output = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, {}, &output));
    output->scalar<int64_t>()() = total.centers;
    OP_REQUIRES_OK(context, context->allocate_output(1, {}, &output));
    output->scalar<int64_t>()() = total.pairs;
    OP_REQUIRES_OK(context, context->allocate_output(2, {}, &output));
    output->scalar<float>()() = total.measured ? static_cast<float>(total.loss / total.measured) : 0.0f;
  }

 private:
  struct Drawing {
    std::vector<int64_t> counts;
    std::vector<uint32_t> keep;
    Alias alias;
  };

  // Makes the tables of keeping and of negative samples, once for the same counts.
  absl::Status Prepare(const Tensor& counts, std::shared_ptr<const Drawing>* drawing) {
    const int64_t* begin = counts.flat<int64_t>().data();
    const int64_t n = counts.NumElements();
    tensorflow::mutex_lock lock(mutex_);
    if (!drawing_ || !std::equal(drawing_->counts.begin(), drawing_->counts.end(), begin, begin + n)) {
      TF_RETURN_IF_ERROR(CheckCounts(begin, n));
      auto made = std::make_shared<Drawing>();
      made->counts.assign(begin, begin + n);
      double total = 0;
      for (int64_t i = 0; i < n; ++i) total += static_cast<double>(begin[i]);
      for (int64_t i = 0; i < n; ++i) made->keep.push_back(KeepThreshold(begin[i] / total, subsample_));
      made->alias = MakeAlias(begin, n);
      drawing_ = std::move(made);
    }
    *drawing = drawing_;
    return absl::OkStatus();
  }

  Settings settings_;
  float subsample_ = 0;
  int64_t threads_ = 0;
  tensorflow::mutex mutex_;
  std::shared_ptr<const Drawing> drawing_;
};
REGISTER_KERNEL_BUILDER(Name("Word2vecTrain").Device(tensorflow::DEVICE_CPU), TrainOp);

// ---- Counting a corpus: a resource, and one operation a verb.

// The words that have been seen, by the numbers of their first coming.
class Words : public tensorflow::ResourceBase {
 public:
  std::string DebugString() const override { return "words of a corpus"; }

  tensorflow::mutex mutex;
  absl::flat_hash_map<std::string, int32_t> numbers;
  std::vector<int64_t> counts;
  bool in_line = false;  // has a word come since the last end of a line
};

REGISTER_OP("Word2vecWords")
    .Output("words: resource")
    .Attr("shared_name: string")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::ScalarShape);

class WordsOp : public OpKernel {
 public:
  explicit WordsOp(OpKernelConstruction* context) : OpKernel(context) {
    OP_REQUIRES_OK(context, context->GetAttr("shared_name", &name_));
  }

  void Compute(OpKernelContext* context) override {
    tensorflow::core::RefCountPtr<Words> words;
    OP_REQUIRES_OK(context,
                   tensorflow::LookupOrCreateResource<Words>(context, Handle(context), &words, [](Words** made) {
                     *made = new Words;
                     (*made)->numbers.reserve(1 << 17);
                     return absl::OkStatus();
                   }));
    Tensor* output = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, {}, &output));
    output->scalar<tensorflow::ResourceHandle>()() = Handle(context);
  }

 private:
  tensorflow::ResourceHandle Handle(OpKernelContext* context) const {
    return tensorflow::MakeResourceHandle<Words>(context, "word2vec", name_);
  }
  std::string name_;
};
REGISTER_KERNEL_BUILDER(Name("Word2vecWords").Device(tensorflow::DEVICE_CPU), WordsOp);

REGISTER_OP("Word2vecEncode")
    .Input("words: resource")
    .Input("text: string")
    .Output("ids: int32")
    .Attr("tokens: {'letters', 'whitespace'} = 'letters'")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      tensorflow::shape_inference::ShapeHandle text;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 0, &text));
      c->set_output(0, c->Vector(c->UnknownDim()));
      return absl::OkStatus();
    });

// Text into the numbers of its words, by their first coming; -1 ends a line.
class EncodeOp : public OpKernel {
 public:
  explicit EncodeOp(OpKernelConstruction* context) : OpKernel(context) {
    std::string tokens;
    OP_REQUIRES_OK(context, context->GetAttr("tokens", &tokens));
    for (int byte = 0; byte < 256; ++byte) {
      const bool upper = byte >= 'A' && byte <= 'Z', lower = byte >= 'a' && byte <= 'z';
      const bool space = byte == ' ' || (byte >= '\t' && byte <= '\r');
      table_[byte] = tokens == "letters" ? (lower ? byte : upper ? byte + 32 : 0) : space ? 0 : byte;
    }
  }

  void Compute(OpKernelContext* context) override {
    tensorflow::core::RefCountPtr<Words> words;
    OP_REQUIRES_OK(context, tensorflow::LookupResource(context, tensorflow::HandleFromInput(context, 0), &words));
    OP_REQUIRES(context, tensorflow::TensorShapeUtils::IsScalar(context->input(1).shape()), Invalid("wanted one text"));
    const tstring& text = context->input(1).scalar<tstring>()();
    std::vector<int32_t> ids;
    ids.reserve(text.size() / 5);
    std::string word;
    tensorflow::mutex_lock lock(words->mutex);
    for (size_t i = 0; i < text.size(); ++i) {
      const uint8_t byte = static_cast<uint8_t>(text[i]);
      OP_REQUIRES(context, byte != 0, Invalid("it is no text: byte ", i, " of this piece is 0"));
      if (const char letter = table_[byte]) {
        word.push_back(letter);
        OP_REQUIRES(context, word.size() < 10000, Invalid("it is no text: a word has 10,000 bytes or more"));
        continue;
      }
      if (!word.empty()) OP_REQUIRES_OK(context, Count(&word, words.get(), &ids));
      if (byte == '\n' && words->in_line) {  // Perhaps since an earlier piece.
        ids.push_back(-1);
        words->in_line = false;
      }
    }
    if (!word.empty()) OP_REQUIRES_OK(context, Count(&word, words.get(), &ids));
    Tensor* output = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, TensorShape({static_cast<int64_t>(ids.size())}), &output));
    std::copy(ids.begin(), ids.end(), output->flat<int32_t>().data());
  }

 private:
  static absl::Status Count(std::string* word, Words* words, std::vector<int32_t>* ids) {
    if (static_cast<int64_t>(words->counts.size()) + 1 >= kMostWords) return Invalid("there are 2^31 different words");
    const auto [found, is_new] = words->numbers.try_emplace(*word, static_cast<int32_t>(words->counts.size()));
    if (is_new) words->counts.push_back(0);
    ++words->counts[found->second];
    ids->push_back(found->second);
    words->in_line = true;
    word->clear();
    return absl::OkStatus();
  }

  char table_[256];  // 0: no part of a word
};
REGISTER_KERNEL_BUILDER(Name("Word2vecEncode").Device(tensorflow::DEVICE_CPU), EncodeOp);

REGISTER_OP("Word2vecVocabulary")
    .Input("words: resource")
    .Output("text: string")
    .Output("counts: int64")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->Vector(c->UnknownDim()));
      c->set_output(1, c->Vector(c->UnknownDim()));
      return absl::OkStatus();
    });

class VocabularyOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* context) override {
    tensorflow::core::RefCountPtr<Words> words;
    OP_REQUIRES_OK(context, tensorflow::LookupResource(context, tensorflow::HandleFromInput(context, 0), &words));
    tensorflow::mutex_lock lock(words->mutex);
    const TensorShape shape({static_cast<int64_t>(words->counts.size())});
    Tensor *text = nullptr, *counts = nullptr;
    OP_REQUIRES_OK(context, context->allocate_output(0, shape, &text));
    OP_REQUIRES_OK(context, context->allocate_output(1, shape, &counts));
    for (const auto& [word, number] : words->numbers) text->flat<tstring>()(number) = word;
    std::copy(words->counts.begin(), words->counts.end(), counts->flat<int64_t>().data());
  }
};
REGISTER_KERNEL_BUILDER(Name("Word2vecVocabulary").Device(tensorflow::DEVICE_CPU), VocabularyOp);

}  // namespace
}  // namespace word2vec
