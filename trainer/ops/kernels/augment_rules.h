// Pad, crop, flip, cut out and normalize pictures in one pass, without TensorFlow: what `augment_rules_test.cc` runs
// under sanitizers. Each does what trainer/preprocessing does by stock operations, to the bit.

#ifndef TRAINER_OPS_AUGMENT_RULES_H_
#define TRAINER_OPS_AUGMENT_RULES_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace tower {

// SplitMix64, as trainer/preprocessing/draws.py: a number follows from the seed, the record and its place alone.
constexpr uint64_t kGolden = 0x9E3779B97F4A7C15u, kFirst = 0xBF58476D1CE4E5B9u, kSecond = 0x94D049BB133111EBu;

inline uint64_t Mix(uint64_t bits) {
  bits = (bits ^ (bits >> 30)) * kFirst;
  bits = (bits ^ (bits >> 27)) * kSecond;
  return bits ^ (bits >> 31);
}

// The numbers of one operation of a pipeline, for one record.
class Draws {
 public:
  Draws(uint64_t seed, int64_t key, int64_t operation)
      : state_(Mix(Mix(static_cast<uint64_t>(key) * kGolden + seed) ^ ((operation + 1) * kSecond))) {}

  float Fraction() { return static_cast<float>(Mix(state_ + ++used_ * kGolden) >> 40) * 0x1p-24f; }
  int64_t Integer(int64_t limit) { return static_cast<int64_t>(Fraction() * static_cast<float>(limit)); }
  bool Choice() { return Fraction() < 0.5f; }

 private:
  uint64_t state_;
  uint64_t used_ = 0;
};

// What is done to values: by a number for each channel, or to a picture as a whole.
enum class Kind { kMultiply, kAdd, kBrightness, kContrast, kStandardize };

struct Step {
  Kind kind = Kind::kAdd;
  std::vector<float> numbers;  // of channels; or low and high - low of what is drawn
  int64_t place = -1;          // in the pipeline, of what is random

  bool of_rows() const { return kind == Kind::kMultiply || kind == Kind::kAdd; }
};

// What is done to each picture.
struct Augment {
  int64_t height = 0, width = 0, depth = 0;  // of what comes in
  int64_t pad = 0;
  int64_t crop_height = 0, crop_width = 0;    // of what goes out
  int64_t crop = -1, flip = -1, cutout = -1;  // places of the random operations in the pipeline; -1: none
  int64_t hole = 0;                           // side of what is cut out
  uint64_t seed = 0;
  std::vector<Step> steps;  // of values

  // Says what is wrong with it; empty where nothing is.
  std::string Damage() const {
    constexpr int64_t kMost = 100000;
    if (height < 1 || width < 1 || depth < 1 || height > kMost || width > kMost || depth > kMost)
      return "an impossible picture";
    if (pad < 0 || pad > kMost || hole < 0 || hole > kMost) return "an impossible pad or hole";
    if (crop_height < 1 || crop_width < 1 || crop_height > height + 2 * pad || crop_width > width + 2 * pad) {
      return "a crop that is larger than the picture";
    }
    constexpr int64_t kMostOfPicture = 1 << 28, kMostOfRow = 1 << 24;
    if (crop_width > kMostOfRow / depth || crop_height > kMostOfPicture / (crop_width * depth))
      return "too large a crop";
    if (width > kMostOfRow / depth || height > kMostOfPicture / (width * depth)) return "too large a picture";
    if (crop < 0 && (crop_height != height + 2 * pad || crop_width != width + 2 * pad)) return "a crop without a place";
    for (const Step& step : steps) {
      const int64_t wanted = step.of_rows() ? depth : step.kind == Kind::kStandardize ? 0 : 2;
      if (static_cast<int64_t>(step.numbers.size()) != wanted) return "a wrong count of numbers for a step";
    }
    return "";
  }

  int64_t row() const { return crop_width * depth; }
};

// What is drawn for one picture.
struct Drawn {
  int64_t top = 0, left = 0;
  bool flips = false;
  int64_t hole_top = 0, hole_left = 0;
};

inline Drawn Draw(const Augment& augment, int64_t key) {
  Drawn drawn;
  if (augment.crop >= 0) {
    Draws draws(augment.seed, key, augment.crop);
    drawn.top = draws.Integer(augment.height + 2 * augment.pad - augment.crop_height + 1);
    drawn.left = draws.Integer(augment.width + 2 * augment.pad - augment.crop_width + 1);
  }
  if (augment.flip >= 0) drawn.flips = Draws(augment.seed, key, augment.flip).Choice();
  if (augment.cutout >= 0) {
    Draws draws(augment.seed, key, augment.cutout);
    drawn.hole_top = draws.Integer(augment.crop_height) - augment.hole / 2;
    drawn.hole_left = draws.Integer(augment.crop_width) - augment.hole / 2;
  }
  return drawn;
}

// Mirrors a row of pixels.
template <int kDepth>
inline void Mirror(uint8_t* row, int64_t width, int64_t depth) {
  const int64_t d = kDepth ? kDepth : depth;
  for (int64_t a = 0, b = width - 1; a < b; ++a, --b) {
    for (int64_t c = 0; c < d; ++c) std::swap(row[a * d + c], row[b * d + c]);
  }
}

// Makes one row of what goes out: uint8 [crop_width, depth].
inline void MakeRow(const Augment& a, const Drawn& drawn, const uint8_t* picture, int64_t r, uint8_t* out) {
  const int64_t depth = a.depth, source = drawn.top + r - a.pad;
  if (source < 0 || source >= a.height) {
    std::memset(out, 0, a.row());
    return;
  }
  // Columns that come from the picture; zeros lie around them.
  const int64_t shift = drawn.left - a.pad;
  const int64_t begin = std::min(std::max<int64_t>(0, -shift), a.crop_width);
  const int64_t end = std::max(begin, std::min(a.crop_width, a.width - shift));
  std::memset(out, 0, begin * depth);
  std::memcpy(out + begin * depth, picture + (source * a.width + shift + begin) * depth, (end - begin) * depth);
  std::memset(out + end * depth, 0, (a.crop_width - end) * depth);
  if (drawn.flips) {
    if (depth == 3) {
      Mirror<3>(out, a.crop_width, depth);
    } else if (depth == 1) {
      Mirror<1>(out, a.crop_width, depth);
    } else {
      Mirror<0>(out, a.crop_width, depth);
    }
  }
  if (a.cutout >= 0 && r >= drawn.hole_top && r < drawn.hole_top + a.hole) {
    const int64_t first = std::min(std::max<int64_t>(0, drawn.hole_left), a.crop_width);
    const int64_t last = std::max(first, std::min(a.crop_width, drawn.hole_left + a.hole));
    std::memset(out + first * depth, 0, (last - first) * depth);
  }
}

// The sum of n floats, always in the same order: by 16 lanes of each block, and these in double precision.
template <typename Of>
inline double Sum(int64_t n, const Of& of) {
  constexpr int64_t kLanes = 16, kBlock = 1024;
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = std::min(n, begin + kBlock);
    float lanes[kLanes] = {};
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += of(i + lane);
    }
    for (int64_t lane = 0; i < end; ++i, ++lane) lanes[lane] += of(i);
    for (int64_t lane = 0; lane < kLanes; ++lane) total += lanes[lane];
  }
  return total;
}

// The steps of values with their numbers as a whole row needs them.
class Normalizer {
 public:
  explicit Normalizer(const Augment& augment) : row_(augment.row()), depth_(augment.depth), steps_(augment.steps) {
    for (Step& step : steps_) {
      if (!step.of_rows()) continue;
      std::vector<float> row(row_);
      for (int64_t i = 0; i < row_; ++i) row[i] = step.numbers[i % depth_];
      step.numbers = std::move(row);
    }
    while (by_row_ < steps_.size() && steps_[by_row_].of_rows()) ++by_row_;
  }

  // Makes float32 of a row, by the steps up to the first that needs the whole picture.
  void StartRow(const uint8_t* in, float* __restrict out) const {
    for (int64_t i = 0; i < row_; ++i) out[i] = static_cast<float>(in[i]);
    for (size_t step = 0; step < by_row_; ++step) ApplyRow(steps_[step], out);
  }

  // Does the other steps to a picture of so many rows.
  void Finish(const Augment& augment, int64_t key, float* picture) const {
    const int64_t rows = augment.crop_height, n = rows * row_;
    for (size_t number = by_row_; number < steps_.size(); ++number) {
      const Step& step = steps_[number];
      if (step.of_rows()) {
        for (int64_t r = 0; r < rows; ++r) ApplyRow(step, picture + r * row_);
      } else if (step.kind == Kind::kStandardize) {
        Standardize(picture, n);
      } else {
        const float drawn = step.numbers[0] + Draws(augment.seed, key, step.place).Fraction() * step.numbers[1];
        if (step.kind == Kind::kBrightness) {
          for (int64_t i = 0; i < n; ++i) picture[i] += drawn;
        } else {
          Contrast(picture, n, drawn);
        }
      }
    }
  }

 private:
  void ApplyRow(const Step& step, float* __restrict out) const {
    const float* __restrict by = step.numbers.data();
    if (step.kind == Kind::kMultiply) {
      for (int64_t i = 0; i < row_; ++i) out[i] = out[i] * by[i];
    } else {
      for (int64_t i = 0; i < row_; ++i) out[i] = out[i] + by[i];
    }
  }

  // Multiplies each channel's distance from its mean.
  void Contrast(float* picture, int64_t n, float factor) const {
    std::vector<float> means(row_);
    for (int64_t channel = 0; channel < depth_; ++channel) {
      const int64_t pixels = n / depth_;
      const float mean =
          static_cast<float>(Sum(pixels, [&](int64_t i) { return picture[i * depth_ + channel]; }) / pixels);
      for (int64_t i = channel; i < row_; i += depth_) means[i] = mean;
    }
    const float* __restrict mean = means.data();
    for (int64_t begin = 0; begin < n; begin += row_) {
      float* __restrict row = picture + begin;
      for (int64_t i = 0; i < row_; ++i) row[i] = (row[i] - mean[i]) * factor + mean[i];
    }
  }

  // Mean 0 and deviation 1, as `tf.image.per_image_standardization`.
  static void Standardize(float* picture, int64_t n) {
    const float mean = static_cast<float>(Sum(n, [&](int64_t i) { return picture[i]; }) / n);
    const double squares = Sum(n, [&](int64_t i) { return (picture[i] - mean) * (picture[i] - mean); });
    const float deviation = std::max(std::sqrt(static_cast<float>(squares / n)), 1 / std::sqrt(static_cast<float>(n)));
    for (int64_t i = 0; i < n; ++i) picture[i] = (picture[i] - mean) / deviation;
  }

  int64_t row_, depth_;
  std::vector<Step> steps_;
  size_t by_row_ = 0;  // of the steps, those before the first of a whole picture
};

}  // namespace tower

#endif  // TRAINER_OPS_AUGMENT_RULES_H_
