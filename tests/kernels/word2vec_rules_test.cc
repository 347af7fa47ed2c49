// Windows against the formulas written out, the sampler against its weights, ids that are none; under sanitizers.
#include "word2vec_rules.h"

#include <cmath>
#include <vector>

#include "check.h"

using namespace word2vec;

static void CheckSigmoid() {
  Lanes x;
  for (float begin = -40; begin < 40; begin += 0.37f) {
    for (int i = 0; i < kLanes; ++i) x[i] = begin + 0.01f * static_cast<float>(i);
    const Lanes y = Sigmoid(x);
    for (int i = 0; i < kLanes; ++i) CHECK(std::abs(y[i] - 1 / (1 + std::exp(-static_cast<double>(x[i])))) < 2e-7);
  }
}

static void CheckAlias() {
  const std::vector<double> weights = {5, 1, 0.5, 3, 0.25, 0, 9};
  double total = 0;
  for (double weight : weights) total += weight;
  const Alias alias = Alias::Make(weights);
  std::vector<double> drawn(weights.size());
  const int64_t n = 1000000;
  Random random(3, 4);
  for (int64_t i = 0; i < n; ++i) drawn[alias.Draw(random.Next())] += 1.0 / n;
  for (size_t i = 0; i < weights.size(); ++i) CHECK(std::abs(drawn[i] - weights[i] / total) < 0.003);
  CHECK(std::abs(KeepThreshold(0.04, 1e-4) / 4294967296.0 - (std::sqrt(400.0) + 1) / 400) < 1e-6);
  CHECK(KeepThreshold(1e-5, 1e-4) == UINT32_MAX && KeepThreshold(0.5, 0) == UINT32_MAX);
}

// One window of two words: each is the only context of the other, and nothing is shared.
static void CheckOneWindow(int64_t d, int64_t negatives) {
  const int64_t words = 7;
  std::vector<float> in(words * d), out(words * d);
  Random values(1, d);
  for (float& x : in) x = static_cast<float>(values.Next() >> 40) * 0x1p-24f - 0.5f;
  for (float& x : out) x = static_cast<float>(values.Next() >> 40) * 0x1p-24f - 0.5f;
  const std::vector<float> in0 = in, out0 = out;
  const std::vector<uint32_t> keep(words, UINT32_MAX);
  const Alias alias = Alias::Make(std::vector<double>(words, 1.0));
  Settings settings;
  settings.window = 1, settings.negatives = negatives, settings.seed = 9, settings.keep = keep.data(),
  settings.alias = &alias;
  Trained trained;
  const int32_t ids[] = {2, 5};
  CHECK(Trainer({in.data(), out.data(), words, d}, settings).Train(ids, 2, 100, 0.5f, 0.5f, &trained));
  CHECK(trained.centers == 2 && trained.pairs == 2);
  std::vector<double> a(in0.begin(), in0.end()), b(out0.begin(), out0.end());
  for (int i = 0; i < 2; ++i) {
    Random random(9, 100 + i);
    random.Next(), random.Next();
    std::vector<int32_t> outputs = {ids[i]};
    for (int64_t k = 0; k < negatives; ++k) {
      const int32_t id = alias.Draw(random.Next());
      if (id != ids[i]) outputs.push_back(id);
    }
    double* x = a.data() + ids[1 - i] * d;
    const std::vector<double> old(b);
    std::vector<double> moved(d);
    for (size_t k = 0; k < outputs.size(); ++k) {
      double score = 0;
      for (int64_t c = 0; c < d; ++c) score += x[c] * old[outputs[k] * d + c];
      const double error = ((k == 0) - 1 / (1 + std::exp(-score))) * 0.5;
      for (int64_t c = 0; c < d; ++c) {
        moved[c] += error * old[outputs[k] * d + c];
        b[outputs[k] * d + c] += error * x[c];
      }
    }
    for (int64_t c = 0; c < d; ++c) x[c] += moved[c];
  }
  for (int64_t i = 0; i < words * d; ++i) CHECK(std::abs(in[i] - a[i]) < 1e-5 && std::abs(out[i] - b[i]) < 1e-5);
}

int main() {
  CheckSigmoid();
  CheckAlias();
  for (int64_t d : {1, 15, 16, 17, 100}) {
    for (int64_t negatives : {1, 5, 20}) CheckOneWindow(d, negatives);
  }
  // Any ids, ends and windows: nothing outside of the tables, and ids that are none are told.
  const int64_t words = 50, d = 13;
  std::vector<float> in(words * d, 0.01f), out(words * d, 0.02f);
  std::vector<uint32_t> keep(words, UINT32_MAX / 2);
  const Alias alias = Alias::Make(std::vector<double>(words, 1.0));
  Random random(5, 5);
  for (int round = 0; round < 60; ++round) {
    std::vector<int32_t> ids(random.Next() % 3000);
    for (int32_t& id : ids) id = static_cast<int32_t>(random.Next() % (words + 1)) - 1;
    Settings settings;
    settings.window = 1 + random.Next() % kMaxWindow, settings.negatives = 1 + random.Next() % kMaxNegatives;
    settings.keep = keep.data(), settings.alias = &alias;
    Trained trained;
    Trainer trainer({in.data(), out.data(), words, d}, settings);
    CHECK(trainer.Train(ids.data(), ids.size(), round, 0.001f, 0.0f, &trained));
    ids.push_back(round % 2 ? static_cast<int32_t>(words) : -2);
    CHECK(!trainer.Train(ids.data(), ids.size(), round, 0.001f, 0.0f, &trained));
  }
  for (float x : in) CHECK(std::isfinite(x));
  return 0;
}
