// Conversion of float32 to the narrow dtypes, to nearest even; several values of an output share a register.

// float8 by integers and one exact addition, for GPUs without a float8 instruction. The value is the least
// significant byte. Numbers are normal from 2^LEAST_EXPONENT up.
template <int MANTISSA, int LEAST_EXPONENT>
INLINE uint32 small_float(float x) {
  const uint32 shift = 23 - MANTISSA, half = (1u << (22 - MANTISSA)) - 1;
  const uint32 rebias = (uint32)(LEAST_EXPONENT + 126) << 23;
  const uint32 smallest_normal = (uint32)(LEAST_EXPONENT + 127) << 23;
  // Adding this power of two leaves a subnormal's integer, rounded to nearest even, in the low bits.
  const uint32 magic = (uint32)(LEAST_EXPONENT - MANTISSA + 23 + 127) << 23;
  const uint32 magnitude = bits::of(x) & 0x7fffffffu;
  const uint32 rounded = (magnitude - rebias + half + ((magnitude >> shift) & 1u)) >> shift;
  const uint32 subnormal = bits::of(ieee::add(bits::to_float(magnitude), bits::to_float(magic))) - magic;
  return (magnitude < smallest_normal ? subnormal : rounded) | ((bits::of(x) & 0x80000000u) >> 24);
}

#if __CUDA_ARCH__ < 890
namespace pack {

INLINE uint32 float8_e4m3fn(float first, float second) {
  return small_float<3, -6>(first) | small_float<3, -6>(second) << 8;
}

INLINE uint32 float8_e5m2(float first, float second) {
  return small_float<2, -14>(first) | small_float<2, -14>(second) << 8;
}

}  // namespace pack
#endif

// --- outputs: the values of one Philox block in registers, the first value in the lowest bytes --------------
// `put` rounds values that are inside their interval. `put_within` also clamps them to [LOW, HIGH], which are
// values of the dtype. Rounding is monotone, so it may come first. float32 needs no clamp: the planner chooses
// scale and offset so that the values stay inside.

struct float32 {
  static constexpr int size = 4;
  INLINE void put(const float (&x)[4], uint32* to) {
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = bits::of(x[i]);
  }
  INLINE void put_within(const float (&x)[4], const float* p, uint32* to) { put(x, to); }
};

struct float64 {
  static constexpr int size = 8;
  INLINE void put(const double (&x)[2], uint32* to) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      to[2 * i] = (uint32)bits::of(x[i]);
      to[2 * i + 1] = (uint32)(bits::of(x[i]) >> 32);
    }
  }
};

#define OUTPUT16(dtype)                                                                       \
  struct dtype {                                                                              \
    static constexpr int size = 2;                                                            \
    INLINE void put(const float (&x)[4], uint32* to) {                                        \
      to[0] = pack::dtype(x[0], x[1]);                                                        \
      to[1] = pack::dtype(x[2], x[3]);                                                        \
    }                                                                                         \
    INLINE void put_within(const float (&x)[4], const float* p, uint32* to) {                 \
      const uint32 low = pack::dtype(p[LOW], p[LOW]), high = pack::dtype(p[HIGH], p[HIGH]);   \
      put(x, to);                                                                             \
      to[0] = pack::least_##dtype(pack::most_##dtype(to[0], low), high);                      \
      to[1] = pack::least_##dtype(pack::most_##dtype(to[1], low), high);                      \
    }                                                                                         \
  };
OUTPUT16(bfloat16)
OUTPUT16(float16)

#define OUTPUT8(dtype)                                                                        \
  struct dtype {                                                                              \
    static constexpr int size = 1;                                                            \
    INLINE void put(const float (&x)[4], uint32* to) {                                        \
      to[0] = pack::dtype(x[0], x[1]) | pack::dtype(x[2], x[3]) << 16;                        \
    }                                                                                         \
    INLINE void put_within(const float (&x)[4], const float* p, uint32* to) {                 \
      float y[4];                                                                             \
      for (int i = 0; i < 4; ++i) y[i] = ieee::least(ieee::most(x[i], p[LOW]), p[HIGH]);      \
      put(y, to);                                                                             \
    }                                                                                         \
  };
OUTPUT8(float8_e4m3fn)
OUTPUT8(float8_e5m2)

// The outputs of constants: bit patterns.
template <int BYTES>
struct pattern {
  static constexpr int size = BYTES;
  INLINE void put(uint64 value, uint32* to) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (size == 1) to[i] = (uint32)(value & 0xff) * 0x01010101u;
      if (size == 2) to[i] = (uint32)(value & 0xffff) * 0x00010001u;
      if (size == 4) to[i] = (uint32)value;
      if (size == 8) to[i] = (uint32)(value >> 32 * (i % 2));
    }
  }
};
using bits8 = pattern<1>;
using bits16 = pattern<2>;
using bits32 = pattern<4>;
using bits64 = pattern<8>;
