// Normal distributions, one word per value: bits to (x, h), the quantile, the affine map.

// --- symmetric, float32: the quantile of the signed word -------------------------------------------------

struct Place {
  float x, h;
};

// x and h of the signed word, each from its own integer, so that both are accurate near zero.
INLINE Place centre_and_tail(uint32 word, const float* p) {
  const uint32 complement = word ^ (uint32)((int)word >> 31) ^ 0x7fffffffu;
  return {ieee::fma(ieee::to_float32((int)word), p[X_STEP], p[X_START]),
          ieee::fma(ieee::to_float32((int)complement), p[H_STEP], p[H_START])};
}

// A normal value truncated symmetrically within 2 sigma.
INLINE float central_normal32(uint32 word, const float* p) {
  const Place at = centre_and_tail(word, p);
  return ieee::fma(central_quantile32(at.x, at.h), p[SCALE], p[OFFSET]);
}

// Whether h is too small for the wide formula. The comparison of bits does not depend on -ftz.
INLINE bool in_tail(float h) { return bits::of(h) < bits::of((float)NORMAL_WIDE_MIN_H); }

// Normal values without bounds or with symmetric bounds. Tails are rare: one branch for all words of a block.
INLINE void normal32(const Words& words, const float* p, float (&values)[WORDS_PER_BLOCK]) {
  float h[WORDS_PER_BLOCK];
  bool any_rare = false;
#pragma unroll
  for (int i = 0; i < WORDS_PER_BLOCK; ++i) {
    const Place at = centre_and_tail(words.word[i], p);
    h[i] = at.h;
    any_rare |= in_tail(at.h);
    values[i] = wide_quantile32(at.x, at.h);
  }
  if (any_rare) {
#pragma unroll
    for (int i = 0; i < WORDS_PER_BLOCK; ++i) {
      const uint32 sign = words.word[i] & 0x80000000u;
      if (in_tail(h[i])) values[i] = bits::to_float(bits::of(tail_quantile32(h[i])) | sign);
    }
  }
#pragma unroll
  for (int i = 0; i < WORDS_PER_BLOCK; ++i) values[i] = ieee::fma(values[i], p[SCALE], p[OFFSET]);
}

// --- any bounds, float64: words up to `split` give values above the mean, the others below ----------------

template <class Word>
INLINE double bounded_normal64(Word word, uint64 split, const double* p) {
  const Word border = (Word)split, last = ~(Word)0;
  const bool above = word <= border;
  const double magnitude = ieee::to_float64(above ? word : (Word)(last - word));
  const double complement = ieee::to_float64((Word)(above ? border - word : word - border - 1));
  // The parameters of one of the two sides.
#define SIDE(parameter) (above ? p[POSITIVE + parameter] : p[NEGATIVE + parameter])
  const double x = ieee::fma(magnitude, SIDE(SIDE_X_STEP), SIDE(SIDE_X_START));
  const double ratio = ieee::fma(complement, SIDE(SIDE_RATIO_STEP), SIDE(SIDE_RATIO_START));
  const double h = ieee::mul(ratio, SIDE(SIDE_H_REFERENCE));
  const double z = quantile64(x, h, ratio, SIDE(SIDE_W_REFERENCE));
#undef SIDE
  return ieee::fma(above ? z : ieee::negative(z), p[SCALE], p[OFFSET]);
}
