// Frames of TFRecords into images and labels, without TensorFlow: what `record_rules_test.cc` runs under sanitizers.

#ifndef TRAINER_OPS_RECORD_RULES_H_
#define TRAINER_OPS_RECORD_RULES_H_

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace tower {

constexpr int64_t kHeaderBytes = 12, kFooterBytes = 4;  // of a frame: length and its checksum; checksum of the data

// Where everything lies in a frame; all of them are alike.
struct Layout {
  int64_t frame_bytes = 0;
  int64_t image = 0, image_bytes = 0;
  int64_t label = 0;  // one byte
  int64_t classes = 0;
  std::vector<std::pair<int64_t, std::string>> constant;  // what is the same in all frames

  // Says what is wrong with it; empty where nothing is.
  std::string Damage() const {
    if (frame_bytes < kHeaderBytes + kFooterBytes) return "a frame is too short";
    if (image < 0 || image_bytes < 1 || image > frame_bytes - kFooterBytes - image_bytes)
      return "no room for the image";
    if (label < 0 || label >= frame_bytes) return "no room for the label";
    if (classes < 1) return "there are no classes";
    for (const auto& [offset, bytes] : constant) {
      if (offset < 0 || offset > frame_bytes - static_cast<int64_t>(bytes.size()))
        return "no room for what is constant";
    }
    return "";
  }
};

// The checksum of a TFRecord, of the CRC-32C of its data.
inline uint32_t MaskCrc(uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xa282ead8u; }

// Copies image and label out of a frame; returns what is wrong with it, nullptr where nothing is.
//
// crc(data, n) is the CRC-32C.
template <typename Crc>
const char* ReadFrame(const Layout& layout, const char* frame, const Crc& crc, uint8_t* image, int32_t* label) {
  for (const auto& [offset, bytes] : layout.constant) {
    if (std::memcmp(frame + offset, bytes.data(), bytes.size()) != 0) return "it has another layout";
  }
  const int64_t data_bytes = layout.frame_bytes - kHeaderBytes - kFooterBytes;
  uint32_t stored;
  std::memcpy(&stored, frame + layout.frame_bytes - kFooterBytes, sizeof stored);
  if (MaskCrc(crc(frame + kHeaderBytes, data_bytes)) != stored) return "its checksum is wrong";
  const int64_t found = static_cast<uint8_t>(frame[layout.label]);
  if (found >= layout.classes) return "its label is out of range";
  *label = static_cast<int32_t>(found);
  std::memcpy(image, frame + layout.image, layout.image_bytes);
  return nullptr;
}

}  // namespace tower

#endif  // TRAINER_OPS_RECORD_RULES_H_
