// Bits to real, and the uniform distribution, by signed odd integers that are exact in the float type.

// (int32(word) >> 7 | 1) * 2^7 * scale + offset in float32, one rounding.
INLINE float uniform32(uint32 word, const float* p) {
  return ieee::fma(ieee::to_float32((int)((word & 0xffffff00u) | 0x80u)), p[SCALE], p[OFFSET]);
}

// (int64(word) >> 10 | 1) * 2^10 * scale + offset in float64, one rounding.
INLINE double uniform64(uint64 word, const double* p) {
  const uint64 odd = (word & 0xfffffffffffff800ull) | 0x400ull;
  return ieee::fma(ieee::to_float64((int64)odd), p[SCALE], p[OFFSET]);
}
