// The arithmetic of an update, without TensorFlow: what `update_rules_test.cc` runs under sanitizers.
//
// Each rule does what TensorFlow's kernel of that optimizer does, in its order, so that both give the same bits
// (tensorflow/core/kernels/training_ops.cc; without fused products and sums, see trainer/ops/toolchain.py).

#ifndef TRAINER_OPS_UPDATE_RULES_H_
#define TRAINER_OPS_UPDATE_RULES_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace tower {

enum class Optimizer { kSgd, kMomentum, kNesterov, kRmsprop, kAdam };

// Whether any of n floats is NaN or infinite: their exponents are all ones.
inline bool AnyNotFinite(const float* values, int64_t n) {
  uint32_t found = 0;
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, sizeof bits);
    found |= static_cast<uint32_t>((bits & 0x7f800000u) == 0x7f800000u);
  }
  return found != 0;
}

// The sum of squares of n floats, always in the same order: by 16 lanes, added one after the other.
inline double SumOfSquares(const float* values, int64_t n) {
  constexpr int kLanes = 16, kBlock = 1024;
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = std::min<int64_t>(n, begin + kBlock);
    float lanes[kLanes] = {};
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += values[i + lane] * values[i + lane];
    }
    for (int lane = 0; i < end; ++i, ++lane) lanes[lane] += values[i] * values[i];
    for (int lane = 0; lane < kLanes; ++lane) total += lanes[lane];
  }
  return total;
}

// What is to be known of a part of a gradient before anything is updated.
struct Seen {
  bool not_finite = false;
  double squares = 0;  // their sum, where it is asked for
};

// Looks at a part of a gradient, with its share of L2: gradient + decay * weight.
inline Seen Look(const float* gradient, const float* weight, float decay, int64_t n, bool measures) {
  constexpr int64_t kChunk = 1024;
  float sums[kChunk];
  Seen seen;
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    const int64_t count = std::min(kChunk, n - begin);
    const float* values = gradient + begin;
    if (decay != 0) {
      for (int64_t i = 0; i < count; ++i) sums[i] = values[i] + weight[begin + i] * decay;
      values = sums;
    }
    seen.not_finite |= AnyNotFinite(values, count);
    if (measures) seen.squares += SumOfSquares(values, count);
  }
  return seen;
}

// How a gradient is clipped: not, or multiplied, or each value.
struct Clip {
  bool scales = false;
  float scale = 1;  // of the gradient
  bool limits = false;
  float limit = 0;  // of each value
};

// What one update of a variable needs besides its values.
struct Rule {
  Optimizer optimizer = Optimizer::kSgd;
  float rate = 0;
  float momentum = 0;      // of momentum, nesterov, rmsprop
  float rho = 0;           // of rmsprop
  float beta1 = 0;         // of adam
  float beta2 = 0;         // of adam
  float epsilon = 0;       // of rmsprop, adam
  float average_rate = 0;  // 1 - decay of the moving average
};

// Pointers into a part of a variable. `old_*` may be the same as what is written.
struct Part {
  int64_t n = 0;
  const float* gradient = nullptr;
  float decay = 0;  // L2
  const float* old_weight = nullptr;
  float* weight = nullptr;
  const float* old_first = nullptr;  // slots
  float* first = nullptr;
  const float* old_second = nullptr;
  float* second = nullptr;
  const float* old_average = nullptr;  // nullptr: there is none
  float* average = nullptr;
};

namespace internal {

// The gradient with L2, clipped: n values of a small part into `out`.
inline void Prepare(const Part& part, const Clip& clip, int64_t begin, int64_t n, float* __restrict out) {
  const float* __restrict gradient = part.gradient + begin;
  const float* __restrict weight = part.old_weight + begin;
  if (part.decay != 0) {
    const float decay = part.decay;
    for (int64_t i = 0; i < n; ++i) out[i] = gradient[i] + weight[i] * decay;
  } else {
    std::memcpy(out, gradient, n * sizeof(float));
  }
  if (clip.scales) {
    for (int64_t i = 0; i < n; ++i) out[i] = out[i] * clip.scale;
  }
  if (clip.limits) {
    for (int64_t i = 0; i < n; ++i) out[i] = std::max(std::min(out[i], clip.limit), -clip.limit);
  }
}

}  // namespace internal

// Updates a part of a variable, its slots and its average, in one pass.
//
// Each small chunk goes through all stages while it is in the first cache. What is read and written may be the same
// memory, but never overlaps otherwise.
inline void UpdatePart(const Part& part, const Rule& rule, const Clip& clip) {
  constexpr int64_t kChunk = 1024;
  float prepared[kChunk];
  const bool is_plain = part.decay == 0 && !clip.scales && !clip.limits;
  for (int64_t begin = 0; begin < part.n; begin += kChunk) {
    const int64_t n = std::min(kChunk, part.n - begin);
    const float* g = part.gradient + begin;
    if (!is_plain) {
      internal::Prepare(part, clip, begin, n, prepared);
      g = prepared;
    }
    const float* old_w = part.old_weight + begin;
    float* w = part.weight + begin;
    const float* old_a = part.old_first ? part.old_first + begin : nullptr;
    float* a = part.first ? part.first + begin : nullptr;
    const float* old_b = part.old_second ? part.old_second + begin : nullptr;
    float* b = part.second ? part.second + begin : nullptr;
    switch (rule.optimizer) {
      case Optimizer::kSgd:
#pragma GCC ivdep
        for (int64_t i = 0; i < n; ++i) w[i] = old_w[i] - g[i] * rule.rate;
        break;
      case Optimizer::kMomentum:
#pragma GCC ivdep
        for (int64_t i = 0; i < n; ++i) {
          const float accumulated = old_a[i] * rule.momentum + g[i];
          a[i] = accumulated;
          w[i] = old_w[i] - accumulated * rule.rate;
        }
        break;
      case Optimizer::kNesterov:
#pragma GCC ivdep
        for (int64_t i = 0; i < n; ++i) {
          const float accumulated = old_a[i] * rule.momentum + g[i];
          a[i] = accumulated;
          w[i] = old_w[i] - (g[i] * rule.rate + accumulated * rule.momentum * rule.rate);
        }
        break;
      case Optimizer::kRmsprop: {  // a: mean of squares, b: momentum
        const float left = 1 - rule.rho;
#pragma GCC ivdep
        for (int64_t i = 0; i < n; ++i) {
          const float squares = old_a[i] + (g[i] * g[i] - old_a[i]) * left;
          const float moved = old_b[i] * rule.momentum + (g[i] * rule.rate) / std::sqrt(squares + rule.epsilon);
          a[i] = squares;
          b[i] = moved;
          w[i] = old_w[i] - moved;
        }
        break;
      }
      case Optimizer::kAdam: {  // a: m, b: v; the rate is alpha
        const float left1 = 1 - rule.beta1, left2 = 1 - rule.beta2;
#pragma GCC ivdep
        for (int64_t i = 0; i < n; ++i) {
          const float m = old_a[i] + (g[i] - old_a[i]) * left1;
          const float v = old_b[i] + (g[i] * g[i] - old_b[i]) * left2;
          a[i] = m;
          b[i] = v;
          w[i] = old_w[i] - (m * rule.rate) / (std::sqrt(v) + rule.epsilon);
        }
        break;
      }
    }
    if (part.average) {
      const float* old_mean = part.old_average + begin;
      float* mean = part.average + begin;
#pragma GCC ivdep
      for (int64_t i = 0; i < n; ++i) mean[i] = old_mean[i] - (old_mean[i] - w[i]) * rule.average_rate;
    }
  }
}

}  // namespace tower

#endif  // TRAINER_OPS_UPDATE_RULES_H_
