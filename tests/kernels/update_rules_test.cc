// Every optimizer, clip, L2 and average over sizes around the chunks, against the formulas written out; under
// sanitizers.
#include "update_rules.h"

#include <limits>
#include <random>
#include <vector>

#include "check.h"

using namespace tower;

static float Expected(Optimizer optimizer, const Rule& r, float g, float w, float* a, float* b) {
  switch (optimizer) {
    case Optimizer::kSgd:
      return w - g * r.rate;
    case Optimizer::kMomentum:
      *a = *a * r.momentum + g;
      return w - *a * r.rate;
    case Optimizer::kNesterov:
      *a = *a * r.momentum + g;
      return w - (g * r.rate + *a * r.momentum * r.rate);
    case Optimizer::kRmsprop:
      *a += (g * g - *a) * (1 - r.rho);
      *b = *b * r.momentum + (g * r.rate) / std::sqrt(*a + r.epsilon);
      return w - *b;
    case Optimizer::kAdam:
      *a += (g - *a) * (1 - r.beta1);
      *b += (g * g - *b) * (1 - r.beta2);
      return w - (*a * r.rate) / (std::sqrt(*b) + r.epsilon);
  }
  return 0;
}

int main() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (int64_t n : {0, 1, 15, 16, 17, 1023, 1024, 1025, 4100}) {
    for (int o = 0; o < 5; ++o) {
      for (int variant = 0; variant < 16; ++variant) {
        // Exactly as large as they have to be: the sanitizer sees the first byte behind.
        std::vector<float> g(n), w(n), a(n), b(n), m(n);
        for (int64_t i = 0; i < n; ++i) {
          g[i] = normal(random), w[i] = normal(random), a[i] = std::abs(normal(random)),
          b[i] = std::abs(normal(random));
          m[i] = normal(random);
        }
        Rule rule{static_cast<Optimizer>(o), 0.1f, 0.9f, 0.9f, 0.9f, 0.999f, 1e-8f, 0.25f};
        Clip clip{(variant & 1) != 0, 0.5f, (variant & 2) != 0, 0.75f};
        const bool averages = variant & 4, in_place = variant & 8;
        std::vector<float> new_w(n), new_a(n), new_b(n), new_m(n);
        Part part;
        part.n = n, part.gradient = g.data(), part.decay = (variant & 2) ? 0.01f : 0.0f;
        part.old_weight = w.data(), part.old_first = a.data(), part.old_second = b.data();
        part.weight = in_place ? w.data() : new_w.data();
        part.first = in_place ? a.data() : new_a.data();
        part.second = in_place ? b.data() : new_b.data();
        if (averages) part.old_average = m.data(), part.average = in_place ? m.data() : new_m.data();
        const std::vector<float> w0 = w, a0 = a, b0 = b, m0 = m;
        UpdatePart(part, rule, clip);
        for (int64_t i = 0; i < n; ++i) {
          float gradient = part.decay != 0 ? g[i] + w0[i] * part.decay : g[i];
          if (clip.scales) gradient *= clip.scale;
          if (clip.limits) gradient = std::max(std::min(gradient, clip.limit), -clip.limit);
          float first = a0[i], second = b0[i];
          const float expected = Expected(rule.optimizer, rule, gradient, w0[i], &first, &second);
          CHECK(part.weight[i] == expected);
          if (o > 0) CHECK(part.first[i] == first);
          if (o > 2) CHECK(part.second[i] == second);
          if (averages) CHECK(part.average[i] == m0[i] - (m0[i] - expected) * rule.average_rate);
        }
        double squares = 0;
        for (int64_t i = 0; i < n; ++i) {
          const float value = part.decay != 0 ? g[i] + w0[i] * part.decay : g[i];
          squares += static_cast<double>(value) * value;
        }
        const Seen seen = Look(g.data(), w0.data(), part.decay, n, true);
        CHECK(!seen.not_finite && std::abs(seen.squares - squares) <= 1e-5 * squares);
        const float bad[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                             -std::numeric_limits<float>::infinity()};
        if (n) {
          g[random() % n] = bad[variant % 3];
          CHECK(Look(g.data(), w0.data(), part.decay, n, false).not_finite);
        }
      }
    }
  }
  return 0;
}
