// Random plans, refused or within their memory; known numbers of SplitMix64; under sanitizers.
#include "augment_rules.h"

#include <random>
#include <vector>

#include "check.h"

using namespace tower;

int main() {
  // The first numbers of SplitMix64 with seed 1234567 (Vigna's reference program).
  CHECK(Mix(1234567u + kGolden) == 6457827717110365317u && Mix(1234567u + 2 * kGolden) == 3203168211198807973u);
  std::mt19937 random(1);
  const auto any = [&](int64_t least, int64_t most) {
    return least + static_cast<int64_t>(random() % (most - least + 1));
  };
  int done = 0;
  for (int round = 0; round < 5000; ++round) {
    Augment a;
    a.height = any(0, 12), a.width = any(0, 12), a.depth = any(0, 5), a.pad = any(-1, 6);
    const bool crops = any(0, 1);
    a.crop = crops ? any(0, 5) : -1;
    a.crop_height = crops ? any(0, 20) : a.height + 2 * a.pad;
    a.crop_width = crops ? any(0, 20) : a.width + 2 * a.pad;
    a.flip = any(-1, 3), a.cutout = any(-1, 3), a.hole = any(-1, 15), a.seed = random();
    for (int64_t count = any(0, 3); count > 0; --count) {
      const Kind kind = static_cast<Kind>(any(0, 4));
      a.steps.push_back({kind,
                         std::vector<float>(any(0, 9) ? (kind < Kind::kBrightness     ? a.depth
                                                         : kind == Kind::kStandardize ? 0
                                                                                      : 2)
                                                      : any(0, 3),
                                            0.5f),
                         any(-1, 3)});
    }
    if (!a.Damage().empty()) continue;
    ++done;
    std::vector<uint8_t> in(a.height * a.width * a.depth), row(a.row());
    for (uint8_t& byte : in) byte = static_cast<uint8_t>(random());
    std::vector<float> out(a.crop_height * a.row());
    const int64_t key = static_cast<int64_t>(random()) << 20;
    const Drawn drawn = Draw(a, key);
    const Normalizer normalizer(a);
    for (int64_t r = 0; r < a.crop_height; ++r) {
      MakeRow(a, drawn, in.data(), r, row.data());
      for (int64_t c = 0; c < a.crop_width; ++c) {
        const int64_t column = drawn.flips ? a.crop_width - 1 - c : c;
        const int64_t y = drawn.top + r - a.pad, x = drawn.left + column - a.pad;
        const bool hole = a.cutout >= 0 && r >= drawn.hole_top && r < drawn.hole_top + a.hole && c >= drawn.hole_left &&
                          c < drawn.hole_left + a.hole;
        const bool inside = !hole && y >= 0 && y < a.height && x >= 0 && x < a.width;
        for (int64_t d = 0; d < a.depth; ++d) {
          CHECK(row[c * a.depth + d] == (inside ? in[(y * a.width + x) * a.depth + d] : 0));
        }
      }
      normalizer.StartRow(row.data(), out.data() + r * a.row());
    }
    normalizer.Finish(a, key, out.data());
  }
  CHECK(done > 500);
  return 0;
}
