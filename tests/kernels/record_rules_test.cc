// Frames with any byte changed, cut layouts, and random layouts; under sanitizers.
#include "record_rules.h"

#include <random>
#include <vector>

#include "check.h"

using namespace tower;

// CRC-32C, bit by bit.
static uint32_t Crc(const char* data, int64_t n) {
  uint32_t crc = 0xffffffffu;
  for (int64_t i = 0; i < n; ++i) {
    crc ^= static_cast<uint8_t>(data[i]);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (0x82f63b78u & (0u - (crc & 1)));
  }
  return ~crc;
}

int main() {
  CHECK(Crc("123456789", 9) == 0xe3069283u);
  std::mt19937 random(1);
  const int64_t size = 80;
  std::vector<char> frame(size);
  for (char& byte : frame) byte = static_cast<char>(random());
  frame[60] = 7;
  Layout layout{size, 20, 30, 60, 10, {{0, std::string(frame.data(), 20)}, {50, std::string(frame.data() + 50, 10)}}};
  CHECK(layout.Damage().empty());
  const uint32_t crc = MaskCrc(Crc(frame.data() + kHeaderBytes, size - kHeaderBytes - kFooterBytes));
  std::memcpy(frame.data() + size - kFooterBytes, &crc, sizeof crc);
  std::vector<uint8_t> image(30);
  int32_t label = -1;
  CHECK(ReadFrame(layout, frame.data(), Crc, image.data(), &label) == nullptr && label == 7);
  CHECK(std::memcmp(image.data(), frame.data() + 20, 30) == 0);
  for (int64_t i = 0; i < size; ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      frame[i] ^= static_cast<char>(1 << bit);
      CHECK(ReadFrame(layout, frame.data(), Crc, image.data(), &label) != nullptr);
      frame[i] ^= static_cast<char>(1 << bit);
    }
  }
  // Whatever numbers a layout has, it is refused, or reads within the frame.
  for (int round = 0; round < 20000; ++round) {
    const auto any = [&](int64_t most) { return static_cast<int64_t>(random() % (2 * most + 1)) - most; };
    Layout wild{any(100), any(100), any(100), any(100), any(20), {}};
    if (round % 3 == 0) wild.constant.emplace_back(any(100), std::string(random() % 50, 'x'));
    if (round % 97 == 0) wild.image = INT64_MAX, wild.image_bytes = INT64_MAX;
    if (!wild.Damage().empty()) continue;
    std::vector<char> exact(wild.frame_bytes, 'x');
    std::vector<uint8_t> out(wild.image_bytes);
    ReadFrame(
        wild, exact.data(), [](const char* data, int64_t n) { return n ? static_cast<uint32_t>(data[n - 1]) : 0u; },
        out.data(), &label);
  }
  return 0;
}
