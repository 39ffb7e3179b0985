// Distribution: the normal quantile, from a tail probability to the distance from the mean in units of sigma.
// kernels/coefficients.py states the formulas with their coefficients.

// Horner's rule with fma, lowest power first.
template <class Real, int N>
INLINE Real polynomial(const Real (&coefficients)[N], Real t) {
  Real value = coefficients[N - 1];
#pragma unroll
  for (int i = N - 2; i >= 0; --i) value = ieee::fma(value, t, coefficients[i]);
  return value;
}

// --- float32 ---------------------------------------------------------------------------------------------
// One Newton step from the GPU's approximation gives the correctly rounded 1 / b and sqrt(a); one correction gives
// the correctly rounded a / b. NVIDIA's rcp.rn.f32, sqrt.rn.f32 and div.rn.f32 compile to the same instructions and
// in addition test for arguments outside the normal range, which do not occur here. tests/test_cuda_compile.py
// compares the machine code, tests/gpu/test_bits.py compares the results.

INLINE float reciprocal(float b) {
  const float y = seed::reciprocal(b);
  return ieee::fma(ieee::fma(ieee::negative(b), y, 1.0f), y, y);
}

INLINE float square_root(float a) {
  const float y = seed::reciprocal_root(a);
  const float root = ieee::mul(a, y);
  return ieee::fma(ieee::fma(ieee::negative(root), root, a), ieee::mul(y, 0.5f), root);
}

INLINE float divide(float a, float b) {
  const float y = reciprocal(b), quotient = ieee::mul(a, y);
  return ieee::fma(y, ieee::fma(ieee::negative(b), quotient, a), quotient);
}

// z for h >= Phi(-2), with the sign of x.
INLINE float central_quantile32(float x, float h) {
  const float s = ieee::fma(ieee::negative(h), h, h);
  const float a = polynomial(NORMAL32_CENTRAL_A, s), b = polynomial(NORMAL32_CENTRAL_B, s);
  return ieee::fma(ieee::mul(x, a), reciprocal(b), x);
}

// z for h >= NORMAL_WIDE_MIN_H, with the sign of x.
INLINE float wide_quantile32(float x, float h) {
  const float v = square_root(ieee::fma(ieee::negative(h), h, h));
  const float a = polynomial(NORMAL32_WIDE_A, v), b = polynomial(NORMAL32_WIDE_B, v);
  return ieee::fma(ieee::mul(x, a), reciprocal(b), x);
}

// |z| for 2^-126 <= h < NORMAL_WIDE_MIN_H.
INLINE float tail_quantile32(float h) {
  // h = 2^e (1 + f) with 1 + f in [sqrt 1/2, sqrt 2); the difference of the bits gives e.
  const uint32 above = bits::of(h) - 0x3f3504f3u;
  const float f = ieee::add(bits::to_float(bits::of(h) - (above & 0xff800000u)), -1.0f);
  const float e = ieee::to_float32((int)above >> 23);
  const float log = ieee::fma(ieee::mul(f, f), polynomial(NORMAL32_LOG, f), f);
  const float w = ieee::fma(ieee::add(ieee::negative(e), -1.0f), NORMAL32_LN2, ieee::negative(log));
  const float r = square_root(w);
  return ieee::fma(r, NORMAL32_TAIL_SLOPE, divide(polynomial(NORMAL32_TAIL_A, r), polynomial(NORMAL32_TAIL_B, r)));
}

// --- float64 ---------------------------------------------------------------------------------------------

// -log(a) of a floating-point number that is not subnormal.
INLINE double minus_log64(double a) {
  const uint64 above = bits::of(a) - 0x3fe6a09e667f3bcdull;
  const double f = ieee::add(bits::to_float(bits::of(a) - (above & 0xfff0000000000000ull)), -1.0);
  const double n = ieee::negative(ieee::to_float64((int64)above >> 52));
  const double g = ieee::divide(f, ieee::add(f, 2.0));
  const double y = ieee::mul(g, g);
  const double half = ieee::mul(ieee::mul(f, 0.5), f);
  // f - log(1 + f)
  const double lost =
      ieee::fma(ieee::negative(g), ieee::add(half, ieee::mul(y, polynomial(NORMAL64_LOG, y))), half);
  const double low = ieee::fma(n, NORMAL64_LN2_LOW, lost);
  return ieee::fma(n, NORMAL64_LN2_HIGH, ieee::add(low, ieee::negative(f)));
}

INLINE double wide_quantile64(double x, double h) {
  const double v = ieee::square_root(ieee::fma(ieee::negative(h), h, h));
  return ieee::fma(x, ieee::divide(polynomial(NORMAL64_WIDE_A, v), polynomial(NORMAL64_WIDE_B, v)), x);
}

INLINE double tail_quantile64(double w) {
  const double r = ieee::square_root(w);
  return ieee::fma(r, NORMAL64_TAIL_SLOPE,
                   ieee::divide(polynomial(NORMAL64_TAIL_A, r), polynomial(NORMAL64_TAIL_B, r)));
}

INLINE double far_quantile64(double w) {
  const double y = ieee::fma(w, 2.0, NORMAL64_LOG_2_OVER_PI);
  const double l = ieee::negative(minus_log64(y));
  const double i = ieee::divide(1.0, y);
  double p = polynomial(NORMAL64_FAR_5, l);
  p = ieee::fma(p, i, polynomial(NORMAL64_FAR_4, l));
  p = ieee::fma(p, i, polynomial(NORMAL64_FAR_3, l));
  p = ieee::fma(p, i, polynomial(NORMAL64_FAR_2, l));
  p = ieee::fma(p, i, polynomial(NORMAL64_FAR_1, l));
  return ieee::square_root(ieee::fma(p, i, ieee::add(y, ieee::negative(l))));
}

// z for the tail probability h; for small h, from -log(2 h) = w_reference - log(ratio).
INLINE double quantile64(double x, double h, double ratio, double w_reference) {
  if (h >= NORMAL_WIDE_MIN_H) return wide_quantile64(x, h);
  const double w = ieee::add(minus_log64(ratio), w_reference);
  return w > NORMAL64_FAR_MIN_W ? far_quantile64(w) : tail_quantile64(w);
}
