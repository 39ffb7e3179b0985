// The instructions of the GPU: one instruction per function, with an explicit rounding mode.
//
// The results of plain operators and of CUDA's intrinsics depend on -ftz (CuPy always sets it) and -fmad. PTX
// instructions with an explicit rounding mode do not. The tests replace this file only, by functions for a CPU.

#define INLINE static __device__ __forceinline__

namespace ieee {

INLINE float fma(float a, float b, float c) {
  float r;
  asm("fma.rn.f32 %0, %1, %2, %3;" : "=f"(r) : "f"(a), "f"(b), "f"(c));
  return r;
}

INLINE float mul(float a, float b) {
  float r;
  asm("mul.rn.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}

INLINE float add(float a, float b) {
  float r;
  asm("add.rn.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}

INLINE float negative(float a) {
  float r;
  asm("neg.f32 %0, %1;" : "=f"(r) : "f"(a));
  return r;
}

// -0 is less than +0.
INLINE float least(float a, float b) {
  float r;
  asm("min.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}

INLINE float most(float a, float b) {
  float r;
  asm("max.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}

INLINE float to_float32(double a) {
  float r;
  asm("cvt.rn.f32.f64 %0, %1;" : "=f"(r) : "d"(a));
  return r;
}

INLINE float to_float32(int a) { return __int2float_rn(a); }
INLINE double to_float64(long long a) { return __ll2double_rn(a); }
INLINE double to_float64(unsigned a) { return __uint2double_rn(a); }
INLINE double to_float64(unsigned long long a) { return __ull2double_rn(a); }

// Double precision has no flush-to-zero mode.
INLINE double fma(double a, double b, double c) { return __fma_rn(a, b, c); }
INLINE double mul(double a, double b) { return __dmul_rn(a, b); }
INLINE double add(double a, double b) { return __dadd_rn(a, b); }
INLINE double negative(double a) { return -a; }
INLINE double divide(double a, double b) { return __ddiv_rn(a, b); }
INLINE double square_root(double a) { return __dsqrt_rn(a); }

}  // namespace ieee

namespace bits {

INLINE unsigned of(float a) { return __float_as_uint(a); }
INLINE float to_float(unsigned a) { return __uint_as_float(a); }
INLINE unsigned long long of(double a) { return __double_as_longlong(a); }
INLINE double to_float(unsigned long long a) { return __longlong_as_double(a); }

}  // namespace bits

// Approximations within a few ulp of 1 / a and 1 / sqrt(a), which depend on the GPU; quantile.cuh corrects them.
namespace seed {

INLINE float reciprocal(float a) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(a));
  return r;
}

INLINE float reciprocal_root(float a) {
  float r;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(a));
  return r;
}

}  // namespace seed

// Two float32 values, rounded to nearest even to a narrow dtype; the first is in the low bits.
namespace pack {

INLINE unsigned bfloat16(float first, float second) {
  unsigned r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(second), "f"(first));
  return r;
}

INLINE unsigned float16(float first, float second) {
  unsigned r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(second), "f"(first));
  return r;
}

// Minimum and maximum of two pairs of values; -0 is less than +0.
#define PAIRWISE(name, instruction)                                                  \
  INLINE unsigned name(unsigned a, unsigned b) {                                     \
    unsigned r;                                                                      \
    asm(instruction " %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));                      \
    return r;                                                                        \
  }
PAIRWISE(least_bfloat16, "min.bf16x2")
PAIRWISE(most_bfloat16, "max.bf16x2")
PAIRWISE(least_float16, "min.f16x2")
PAIRWISE(most_float16, "max.f16x2")
#undef PAIRWISE

#if __CUDA_ARCH__ >= 890
INLINE unsigned float8_e4m3fn(float first, float second) {
  unsigned short r;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(r) : "f"(second), "f"(first));
  return r;
}

INLINE unsigned float8_e5m2(float first, float second) {
  unsigned short r;
  asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(r) : "f"(second), "f"(first));
  return r;
}
#endif

}  // namespace pack

// Stores to addresses of global memory. The kernels never read what they write.
namespace memory {

INLINE void store(unsigned long long to, const unsigned (&part)[4]) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};"
               :: "l"(to), "r"(part[0]), "r"(part[1]), "r"(part[2]), "r"(part[3]));
}

INLINE void store(unsigned long long to, unsigned long long value) {
  asm volatile("st.global.u64 [%0], %1;" :: "l"(to), "l"(value));
}

INLINE void store(unsigned long long to, unsigned value) {
  asm volatile("st.global.u32 [%0], %1;" :: "l"(to), "r"(value));
}

INLINE void store(unsigned long long to, unsigned short value) {
  asm volatile("st.global.u16 [%0], %1;" :: "l"(to), "h"(value));
}

INLINE void store(unsigned long long to, unsigned char value) {
  asm volatile("st.global.u8 [%0], %1;" :: "l"(to), "r"((unsigned)value));
}

}  // namespace memory
