// The arithmetic of skip-gram with negative sampling (Mikolov et al., 2013), without TensorFlow.
//
// What makes it fast: the words around a center share its negative samples, so that a window is a small matrix product
// [contexts, d] x [d, 1 + negatives] (Ji et al., "Parallelizing Word2Vec in Shared and Distributed Memory", 2016); the
// rows of the words around stay in the first cache while they are in the window (Randall et al., "FULL-W2V", 2021); no
// locks (Recht et al., "Hogwild", 2011).

#ifndef EXAMPLES_WORD2VEC_WORD2VEC_RULES_H_
#define EXAMPLES_WORD2VEC_WORD2VEC_RULES_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace word2vec {

constexpr int kLanes = 16;
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float)), aligned(kLanes * sizeof(float))));
typedef int32_t IntLanes __attribute__((vector_size(kLanes * sizeof(int32_t)), aligned(kLanes * sizeof(int32_t))));

constexpr int64_t kMaxWindow = 32, kMaxNegatives = 63;
constexpr int64_t kSentence = 1000;  // kept words that are trained together, at most; as word2vec.c

// SplitMix64 (Steele, Lea and Flood, 2014) of a position: numbers follow from seed, epoch and word alone.
inline uint64_t Mix(uint64_t bits) {
  bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9u;
  bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EBu;
  return bits ^ (bits >> 31);
}

class Random {
 public:
  Random(uint64_t seed, int64_t position) : state_(Mix(Mix(seed) + static_cast<uint64_t>(position) * kGolden)) {}
  uint64_t Next() { return Mix(state_ += kGolden); }

 private:
  static constexpr uint64_t kGolden = 0x9E3779B97F4A7C15u;
  uint64_t state_;
};

// Draws from a distribution in constant time (Walker, 1977; Vose, 1991).
struct Alias {
  std::vector<uint32_t> stays;  // out of 2^32
  std::vector<int32_t> other;

  // Makes it from weights, of which at least one is above 0.
  static Alias Make(const std::vector<double>& weights) {
    const int64_t n = weights.size();
    double total = 0;
    for (double weight : weights) total += weight;
    std::vector<double> share(n);
    std::vector<int32_t> small, large;
    for (int64_t i = 0; i < n; ++i) {
      share[i] = weights[i] * n / total;
      (share[i] < 1 ? small : large).push_back(static_cast<int32_t>(i));
    }
    Alias alias;
    alias.stays.assign(n, UINT32_MAX);
    alias.other.resize(n);
    for (int64_t i = 0; i < n; ++i) alias.other[i] = static_cast<int32_t>(i);
    while (!small.empty() && !large.empty()) {
      const int32_t less = small.back(), more = large.back();
      small.pop_back();
      alias.stays[less] = static_cast<uint32_t>(std::min(share[less] * 4294967296.0, 4294967295.0));
      alias.other[less] = more;
      share[more] -= 1 - share[less];
      if (share[more] < 1) {
        large.pop_back();
        small.push_back(more);
      }
    }
    return alias;
  }

  int32_t Draw(uint64_t bits) const {
    const uint32_t place =
        static_cast<uint32_t>((static_cast<uint64_t>(static_cast<uint32_t>(bits)) * stays.size()) >> 32);
    return static_cast<uint32_t>(bits >> 32) <= stays[place] ? static_cast<int32_t>(place) : other[place];
  }
};

// How likely a word of a frequency is kept (word2vec.c): (sqrt(f / t) + 1) * t / f; out of 2^32.
inline uint32_t KeepThreshold(double frequency, double threshold) {
  if (threshold <= 0 || frequency <= 0) return UINT32_MAX;
  const double keep = (std::sqrt(frequency / threshold) + 1) * threshold / frequency;
  return static_cast<uint32_t>(std::min(keep * 4294967296.0, 4294967295.0));
}

inline float Sigmoid(float x) { return 1 / (1 + std::exp(-x)); }

// The same of 16 numbers: 2^n * 2^f, where the second is a polynomial (error of exp below 3e-7).
inline Lanes Sigmoid(Lanes x) {
  const Lanes limit = (Lanes){} + 30.0f;
  x = x > limit ? limit : x;
  x = x < -limit ? -limit : x;
  const Lanes y = x * -1.44269504f;
  const IntLanes n = __builtin_convertvector(y + (y < (Lanes){} ? (Lanes){} - 0.5f : (Lanes){} + 0.5f), IntLanes);
  const Lanes f = (y - __builtin_convertvector(n, Lanes)) * 0.693147181f;
  Lanes p = f * (1 / 720.0f) + 1 / 120.0f;
  p = p * f + 1 / 24.0f;
  p = p * f + 1 / 6.0f;
  p = p * f + 0.5f;
  p = p * f + 1.0f;
  p = p * f + 1.0f;
  const IntLanes bits = (n + 127) << 23;
  Lanes scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return 1.0f / (1.0f + p * scale);
}

inline Lanes Load(const float* from) {
  Lanes lanes;
  std::memcpy(&lanes, from, sizeof lanes);
  return lanes;
}
inline void Store(float* to, Lanes lanes) { std::memcpy(to, &lanes, sizeof lanes); }

inline float Sum(Lanes lanes) {
  float sum[kLanes];
  std::memcpy(sum, &lanes, sizeof sum);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) sum[i] += sum[i + width];
  }
  return sum[0];
}

// The tables of a model: rows of d floats, which other threads write too.
struct Tables {
  float* in = nullptr;
  float* out = nullptr;
  int64_t words = 0, d = 0;
};

struct Settings {
  int64_t window = 5, negatives = 5;
  uint64_t seed = 0;
  const uint32_t* keep = nullptr;  // out of 2^32, of each word
  const Alias* alias = nullptr;    // of negative samples
};

// What a stretch of the corpus has come to.
struct Trained {
  int64_t centers = 0, pairs = 0;
  double loss = 0;  // sum over `measured` windows, of -log of all its outputs, a context
  int64_t measured = 0;
};

// Trains stretches of a corpus; one for each thread.
class Trainer {
 public:
  Trainer(const Tables& tables, const Settings& settings)
      : tables_(tables),
        settings_(settings),
        stride_((tables.d + kLanes - 1) / kLanes * kLanes),
        ring_(2 * settings.window + 1),
        rows_(ring_ * stride_ + kLanes),
        before_(ring_ * stride_ + kLanes),
        outputs_((settings.negatives + 1) * stride_ + kLanes),
        scores_(2 * settings.window * (settings.negatives + 1) + 2 * kLanes) {
    ids_.reserve(kSentence);
    places_.reserve(kSentence);
  }

  // Trains the words ids[0, n), whose first stands at `position` of the corpus; -1 ends a sentence. The rate falls
  // linearly. Returns false where an id is none.
  bool Train(const int32_t* ids, int64_t n, int64_t position, float first_rate, float last_rate, Trained* trained) {
    ids_.clear();
    places_.clear();
    for (int64_t i = 0; i < n; ++i) {
      const int32_t id = ids[i];
      if (id >= tables_.words || id < -1) return false;
      if (id >= 0) {
        Random random(settings_.seed, position + i);
        if (static_cast<uint32_t>(random.Next() >> 32) <= settings_.keep[id]) {
          ids_.push_back(id);
          places_.push_back(position + i);
        }
      }
      if (id < 0 || static_cast<int64_t>(ids_.size()) == kSentence || i + 1 == n) {
        const float rate = first_rate + (last_rate - first_rate) * static_cast<float>(i) / static_cast<float>(n);
        Sentence(rate, trained);
        ids_.clear();
        places_.clear();
      }
    }
    return true;
  }

 private:
  // Aligned memory inside a vector.
  float* Aligned(std::vector<float>& memory) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(memory.data());
    return memory.data() + (-at / sizeof(float)) % kLanes;
  }
  float* row(int64_t place) { return Aligned(rows_) + place % ring_ * stride_; }
  float* before(int64_t place) { return Aligned(before_) + place % ring_ * stride_; }

  void Enter(int64_t place) {
    const float* from = tables_.in + ids_[place] * tables_.d;
    std::memcpy(row(place), from, tables_.d * sizeof(float));
    std::memcpy(before(place), from, tables_.d * sizeof(float));
  }

  // Adds what has changed: others may have written meanwhile.
  void Leave(int64_t place) {
    float* to = tables_.in + ids_[place] * tables_.d;
    const float *now = row(place), *then = before(place);
    for (int64_t c = 0; c < tables_.d; ++c) to[c] += now[c] - then[c];
  }

  void Sentence(float rate, Trained* trained) {
    const int64_t n = ids_.size(), window = settings_.window;
    if (n < 2) return;
    std::memset(Aligned(rows_), 0, ring_ * stride_ * sizeof(float));
    for (int64_t j = 0; j < std::min(n, window); ++j) Enter(j);
    Draw(0, next_, &next_reach_);
    for (int64_t i = 0; i < n; ++i) {
      if (i + window < n) Enter(i + window);
      std::swap(drawn_, next_);
      const int64_t reach = next_reach_;
      if (i + 1 < n) Draw(i + 1, next_, &next_reach_);
      if (i + window + 2 < n) Prefetch(tables_.in + ids_[i + window + 2] * tables_.d);
      Window(i, std::max<int64_t>(0, i - reach), std::min(n - 1, i + reach), rate, trained);
      if (i >= window) Leave(i - window);
    }
    for (int64_t j = std::max<int64_t>(0, n - window); j < n; ++j) Leave(j);
  }

  void Prefetch(const float* row) const {
    for (int64_t c = 0; c < tables_.d; c += kLanes) __builtin_prefetch(row + c, 1);
  }

  // Draws reach and outputs of a center, and asks the memory for their rows.
  void Draw(int64_t i, std::vector<int32_t>& drawn, int64_t* reach) {
    Random random(settings_.seed, places_[i]);
    random.Next();  // Decided whether the word is kept.
    *reach = 1 + static_cast<int64_t>((random.Next() >> 32) * settings_.window >> 32);
    drawn.clear();
    drawn.push_back(ids_[i]);
    for (int64_t k = 0; k < settings_.negatives; ++k) {
      const int32_t id = settings_.alias->Draw(random.Next());
      if (id != ids_[i]) drawn.push_back(id);
    }
    for (int32_t id : drawn) Prefetch(tables_.out + id * tables_.d);
  }

  void Window(int64_t center, int64_t first, int64_t last, float rate, Trained* trained) {
    const int64_t outputs = drawn_.size();
    float* contexts[2 * kMaxWindow];
    int64_t n = 0;
    for (int64_t j = first; j <= last; ++j) {
      if (j != center) contexts[n++] = row(j);
    }
    float* out = Aligned(outputs_);
    for (int64_t k = 0; k < outputs; ++k) {
      std::memcpy(out + k * stride_, tables_.out + drawn_[k] * tables_.d, tables_.d * sizeof(float));
    }
    float* scores = Aligned(scores_);
    if (outputs == 6) {
      Scores<6>(contexts, n, out, scores);
    } else {
      ScoresOfAny(contexts, n, out, outputs, scores);
    }
    const int64_t total = n * outputs;
    const bool measures = (trained->centers++ & 63) == 0;
    for (int64_t p = 0; p < total; p += kLanes) Store(scores + p, Sigmoid(Load(scores + p)));
    if (measures) Measure(scores, n, outputs, trained);
    for (int64_t r = 0, p = 0; r < n; ++r) {
      scores[p] = 1 - scores[p];
      for (int64_t k = 0; k < outputs; ++k, ++p) scores[p] = (k ? -scores[p] : scores[p]) * rate;
    }
    if (outputs == 6) {
      Update<6>(contexts, n, out, scores);
    } else {
      UpdateOfAny(contexts, n, out, outputs, scores);
    }
    trained->pairs += n;
  }

  static void Measure(const float* sigmoids, int64_t n, int64_t outputs, Trained* trained) {
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t k = 0; k < outputs; ++k) {
        const float right = k ? 1 - sigmoids[r * outputs + k] : sigmoids[r * outputs + k];
        trained->loss -= std::log(std::max(right, 1e-12f));
      }
    }
    trained->measured += n;
  }

  template <int kOutputs>
  void Scores(float* const* contexts, int64_t n, const float* out, float* scores) const {
    for (int64_t r = 0; r < n; ++r) {
      Lanes sums[kOutputs] = {};
      for (int64_t c = 0; c < stride_; c += kLanes) {
        const Lanes x = *reinterpret_cast<const Lanes*>(contexts[r] + c);
        for (int k = 0; k < kOutputs; ++k) sums[k] += x * *reinterpret_cast<const Lanes*>(out + k * stride_ + c);
      }
      for (int k = 0; k < kOutputs; ++k) scores[r * kOutputs + k] = Sum(sums[k]);
    }
  }

  void ScoresOfAny(float* const* contexts, int64_t n, const float* out, int64_t outputs, float* scores) const {
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t k = 0; k < outputs; ++k) {
        Lanes sum = {};
        for (int64_t c = 0; c < stride_; c += kLanes) sum += Load(contexts[r] + c) * Load(out + k * stride_ + c);
        scores[r * outputs + k] = Sum(sum);
      }
    }
  }

  // Moves the rows of both tables by the errors of all pairs, [n, outputs], as they were before the window.
  template <int kOutputs>
  void Update(float* const* contexts, int64_t n, const float* out, const float* errors) {
    for (int64_t c = 0; c < stride_; c += kLanes) {
      Lanes old[kOutputs], moved[kOutputs] = {};
      for (int k = 0; k < kOutputs; ++k) old[k] = *reinterpret_cast<const Lanes*>(out + k * stride_ + c);
      for (int64_t r = 0; r < n; ++r) {
        Lanes* row = reinterpret_cast<Lanes*>(contexts[r] + c);
        const Lanes x = *row;
        Lanes sum = x;
        for (int k = 0; k < kOutputs; ++k) {
          const float error = errors[r * kOutputs + k];
          moved[k] += x * error;
          sum += old[k] * error;
        }
        *row = sum;
      }
      for (int k = 0; k < kOutputs; ++k) Add(drawn_[k], c, moved[k]);
    }
  }

  void UpdateOfAny(float* const* contexts, int64_t n, const float* out, int64_t outputs, const float* errors) {
    for (int64_t c = 0; c < stride_; c += kLanes) {
      for (int64_t k = 0; k < outputs; ++k) {
        Lanes moved = {};
        for (int64_t r = 0; r < n; ++r) moved += Load(contexts[r] + c) * errors[r * outputs + k];
        Add(drawn_[k], c, moved);
      }
      for (int64_t r = 0; r < n; ++r) {
        Lanes sum = Load(contexts[r] + c);
        for (int64_t k = 0; k < outputs; ++k) sum += Load(out + k * stride_ + c) * errors[r * outputs + k];
        Store(contexts[r] + c, sum);
      }
    }
  }

  // Adds to a piece of an output's row, whose length may be no multiple of the lanes.
  void Add(int32_t id, int64_t c, Lanes moved) {
    float* to = tables_.out + id * tables_.d + c;
    if (c + kLanes <= tables_.d) {
      Store(to, Load(to) + moved);
      return;
    }
    float values[kLanes];
    std::memcpy(values, &moved, sizeof values);
    for (int64_t i = 0; c + i < tables_.d; ++i) to[i] += values[i];
  }

  const Tables tables_;
  const Settings settings_;
  const int64_t stride_, ring_;  // floats of a row here; rows
  std::vector<float> rows_, before_, outputs_, scores_;
  std::vector<int32_t> ids_, drawn_, next_;  // kept words of a sentence; outputs of a center, and of the one behind it
  std::vector<int64_t> places_;              // of the kept words in the corpus
  int64_t next_reach_ = 1;
};

}  // namespace word2vec

#endif  // EXAMPLES_WORD2VEC_WORD2VEC_RULES_H_
