// CUDA on a CPU, as far as the kernels need it: stands in for kernels/cuda/device.cuh, all else is compiled as it is.
// g++ -std=c++17 -ffp-contract=off. Threads run one after another, which kernels without barriers cannot tell.

#include <cmath>
#include <cstring>

#define INLINE static inline
#define __device__
#define __global__
#define __grid_constant__
#define __launch_bounds__(...)

struct Dim {
  unsigned x = 0;
};
static Dim threadIdx, blockIdx, gridDim;

namespace ieee {
INLINE float fma(float a, float b, float c) { return std::fma(a, b, c); }
INLINE float mul(float a, float b) { return a * b; }
INLINE float add(float a, float b) { return a + b; }
INLINE float negative(float a) { return -a; }
// As min and max of PTX: -0 is less than +0. (No kernel makes a NaN.)
INLINE float least(float a, float b) { return a < b || (a == b && std::signbit(a)) ? a : b; }
INLINE float most(float a, float b) { return a > b || (a == b && !std::signbit(a)) ? a : b; }
INLINE float to_float32(double a) { return (float)a; }
INLINE float to_float32(int a) { return (float)a; }
INLINE double to_float64(long long a) { return (double)a; }
INLINE double to_float64(unsigned a) { return (double)a; }
INLINE double to_float64(unsigned long long a) { return (double)a; }
INLINE double fma(double a, double b, double c) { return std::fma(a, b, c); }
INLINE double mul(double a, double b) { return a * b; }
INLINE double add(double a, double b) { return a + b; }
INLINE double negative(double a) { return -a; }
INLINE double divide(double a, double b) { return a / b; }
INLINE double square_root(double a) { return std::sqrt(a); }
}  // namespace ieee

namespace bits {
template <class To, class From>
INLINE To cast(From a) {
  static_assert(sizeof(To) == sizeof(From));
  To r;
  std::memcpy(&r, &a, sizeof r);
  return r;
}
INLINE unsigned of(float a) { return cast<unsigned>(a); }
INLINE float to_float(unsigned a) { return cast<float>(a); }
INLINE unsigned long long of(double a) { return cast<unsigned long long>(a); }
INLINE double to_float(unsigned long long a) { return cast<double>(a); }
}  // namespace bits

// --- seeds ------------------------------------------------------------------------------------------------
// Off by up to `seed_error` units in the last place of the correctly rounded value, as hardware may be (CUDA
// documents 1 ulp for rcp.approx and a relative 2^-22.9 for rsqrt.approx): by exactly that many if `seed_exact`,
// by a number that looks random in between otherwise. Seeds that NVIDIA's own rcp.rn and sqrt.rn could not start
// from are no hardware's: those sequences are the ones of quantile.cuh, and documented as correctly rounded.

extern "C" {
int seed_error = 0, seed_exact = 0;
}

INLINE float near(float rounded, int limit) {
  const unsigned u = bits::of(rounded);
  const int mixed = (int)((u * 2654435761u) >> 16) % (2 * limit + 1) - limit;
  return bits::to_float(u + (seed_exact ? seed_error : mixed));
}

INLINE float step_to_reciprocal(float b, float y) { return std::fma(std::fma(-b, y, 1.0f), y, y); }

INLINE float step_to_root(float a, float y) {
  const float root = a * y;
  return std::fma(std::fma(-root, root, a), y * 0.5f, root);
}

namespace seed {
INLINE float reciprocal(float b) {
  const float rounded = 1.0f / b, y = near(rounded, std::abs(seed_error));
  return step_to_reciprocal(b, y) == rounded ? y : rounded;
}
INLINE float reciprocal_root(float a) {
  const float rounded = (float)(1.0 / std::sqrt((double)a)), y = near(rounded, std::abs(seed_error));
  return step_to_root(a, y) == std::sqrt(a) ? y : rounded;
}
}  // namespace seed

// How many arguments of one binade (two for the root) and seeds of `error` ulp from the rounded one, within the
// documented bound, do not lead to IEEE's result; the arguments are listed.
extern "C" int wrong_reciprocals(int error, float* listed) {
  int wrong = 0;
  for (unsigned i = 0; i < 1u << 23; ++i) {
    const float b = bits::to_float(0x3f800000u + i), rounded = 1.0f / b;
    const float y = bits::to_float(bits::of(rounded) + error);
    if (std::fabs(y - 1.0 / b) > 0x1p-24) continue;  // an ulp of the results, which lie in (1/2, 1]
    if (step_to_reciprocal(b, y) != rounded) listed[wrong++] = b;
  }
  return wrong;
}

extern "C" int wrong_roots(int error, float* listed) {
  int wrong = 0;
  for (unsigned i = 0; i < 1u << 24; ++i) {
    const float a = bits::to_float(0x3f000000u + i);
    const double exact = 1.0 / std::sqrt((double)a);
    const float y = bits::to_float(bits::of((float)exact) + error);
    if (std::fabs(y - exact) > std::exp2(-22.9) * exact) continue;
    if (step_to_root(a, y) != std::sqrt(a)) listed[wrong++] = a;
  }
  return wrong;
}

// --- conversions ------------------------------------------------------------------------------------------

namespace pack {
INLINE unsigned bfloat16(float x) {
  const unsigned u = bits::of(x);
  return (u + 0x7fff + (u >> 16 & 1)) >> 16;
}
INLINE unsigned float16(float x) { return bits::cast<unsigned short>((_Float16)x); }

#define PAIRS(dtype, to_float)                                                                          \
  INLINE unsigned dtype(float first, float second) { return dtype(first) | dtype(second) << 16; }        \
  INLINE unsigned least_##dtype(unsigned a, unsigned b) {                                                \
    return dtype(ieee::least(to_float(a), to_float(b)), ieee::least(to_float(a >> 16), to_float(b >> 16))); \
  }                                                                                                      \
  INLINE unsigned most_##dtype(unsigned a, unsigned b) {                                                 \
    return dtype(ieee::most(to_float(a), to_float(b)), ieee::most(to_float(a >> 16), to_float(b >> 16)));   \
  }
INLINE float from_bfloat16(unsigned a) { return bits::to_float(a << 16); }
INLINE float from_float16(unsigned a) { return (float)bits::cast<_Float16>((unsigned short)a); }
PAIRS(bfloat16, from_bfloat16)
PAIRS(float16, from_float16)
}  // namespace pack

// --- memory -----------------------------------------------------------------------------------------------

extern "C" {
long long wide_stores = 0, narrow_stores = 0, misaligned_stores = 0;
}

namespace memory {
template <class Value>
INLINE void write(unsigned long long to, const Value& value) {
  // Bytes at odd addresses are NumPy's right, and the planner's; the GPU's backend refuses them.
  misaligned_stores += to % sizeof(Value) != 0;
  std::memcpy((void*)to, &value, sizeof value);
}
INLINE void store(unsigned long long to, const unsigned (&part)[4]) { ++wide_stores, write(to, part); }
INLINE void store(unsigned long long to, unsigned long long value) { ++narrow_stores, write(to, value); }
INLINE void store(unsigned long long to, unsigned value) { ++narrow_stores, write(to, value); }
INLINE void store(unsigned long long to, unsigned short value) { ++narrow_stores, write(to, value); }
INLINE void store(unsigned long long to, unsigned char value) { ++narrow_stores, write(to, value); }
}  // namespace memory
