// Vector functions. Coefficients of exp and log: Cephes (S. Moshier); erf: own fits. Errors are tested in tests/engine.
// Comparisons are written so that NaN takes the branch that keeps it.
#define one (vf{} + 1.0f)
#define zero (vf{})

INLINE vf v_min(vf a, vf b) { return sel((a < b) | (a != a), a, b); }
INLINE vf v_max(vf a, vf b) { return sel((a > b) | (a != a), a, b); }
INLINE vf v_abs(vf a) { return from_bits(bits(a) & 0x7fffffff); }
INLINE vf with_sign(vf x, vf s) { return from_bits(bits(x) | (bits(s) & (int)0x80000000)); }

INLINE vf v_sqrt(vf a) {
  vf r;
  for (int i = 0; i < VL; i++) r[i] = __builtin_sqrtf(a[i]);
  return r;
}

// x = n ln2 + r; returns e^r - 1, and n as an integer.
INLINE vf exp_reduce(vf x, vi& n) {
  const vf magic = vf{} + 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  vf z = x * 1.44269504088896341f + magic;
  n = bits(z) - bits(magic);
  vf k = z - magic;
  vf r = x - k * 0.693359375f;
  r = r - k * -2.12194440e-4f;
  vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return p * (r * r) + r;
}
INLINE vf two_to(vi n) { return from_bits((n + 127) << 23); }
INLINE vf clamp(vf x, float lo, float hi) {
  x = sel(x < lo, vf{} + lo, x);
  return sel(x > hi, vf{} + hi, x);
}

INLINE vf v_exp(vf x) {
  vi n;
  vf e = exp_reduce(clamp(x, -104.0f, 89.0f), n) + 1.0f;
  vi half = n >> 1;  // two factors, so that overflow and denormals come out right
  return e * two_to(half) * two_to(n - half);
}

// One factor is enough between the bounds; n = 128 gives infinity by itself.
INLINE vf exp_fast(vf x) {
  vi n;
  vf e = exp_reduce(clamp(x, -87.0f, 88.8f), n) + 1.0f;
  return e * two_to(n);
}

INLINE vf expm1_mid(vf x) {
  vi n;
  vf e = exp_reduce(x, n), s = two_to(n);
  return e * s + (s - 1.0f);
}

INLINE vf v_expm1(vf x) { return sel(x > 40.0f, v_exp(x), expm1_mid(clamp(x, -20.0f, 40.0f))); }

INLINE vf v_sigmoid(vf x) { return 1.0f / (1.0f + exp_fast(-x)); }

INLINE vf v_tanh(vf x) {
  vf e = expm1_mid(2.0f * clamp(x, -10.0f, 10.0f));
  return e / (e + 2.0f);
}

INLINE vf v_log(vf x) {
  vi tiny = x < 1.17549435e-38f;
  vf y = sel(tiny, x * 8388608.0f, x);
  vi b = bits(y);
  vi e = (vi)((vu)b - 0x3f3504f3u) >> 23;  // mantissa in [sqrt(1/2), sqrt(2))
  vf f = from_bits((vi)((vu)b - ((vu)e << 23))) - 1.0f;
  vf k = __builtin_convertvector(e, vf) - sel(tiny, vf{} + 23.0f, zero);
  vf p = f * 7.0376836292e-2f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  vf s = f * f;
  vf r = p * (s * f);
  r = r + k * -2.12194440e-4f;
  r = r - 0.5f * s;
  r = f + r;
  r = r + k * 0.693359375f;
  const vf inf = vf{} + __builtin_inff();
  r = sel(x == inf, inf, r);
  r = sel(x == zero, -inf, r);
  return sel(x >= zero, r, vf{} + __builtin_nanf(""));
}

// log(1 + x) with the rounding error of 1 + x added back to first order.
INLINE vf v_log1p(vf x) {
  vf u = x + 1.0f;
  vf c = sel(x > 1.0f, 1.0f - (u - x), x - (u - 1.0f));
  vf r = v_log(u);
  return sel((u > 0.0f) & (u < 1e30f), r + c / u, r);
}

INLINE vf v_softplus(vf x) { return v_max(x, zero) + v_log1p(v_exp(-v_abs(x))); }

INLINE vf v_floor(vf x) {
  vf t = __builtin_convertvector(__builtin_convertvector(x, vi), vf);
  t = t - sel(t > x, one, zero);
  return sel(v_abs(x) < 8388608.0f, t, x);
}

INLINE vf v_erf(vf x) {
  vf a = v_abs(x), s = x * x;
  vf near = s * 7.8824974e-05f + -0.0008018855f;
  near = near * s + 0.005189312f;
  near = near * s + -0.026854329f;
  near = near * s + 0.11283597f;
  near = near * s + -0.37612626f;
  near = near * s + 0.12837917f;
  near = near * x + x;  // |x| <= 1
  vf t = sel(a > 4.2f, vf{} + 4.2f, a);
  vf q = t * -1.8659739e-05f + 0.00040373698f;
  q = q * t + -0.0040104375f;
  q = q * t + 0.024666965f;
  q = q * t + -0.107536465f;
  q = q * t + -0.6340615f;
  q = q * t + -1.1291424f;
  q = q * t + 9.325875e-05f;  // log(erfc(t)), 1 < t
  vf far = with_sign(1.0f - exp_fast(q), x);
  return sel(a > 1.0f, far, near);
}

#define PER_LANE(name, expression)                       \
  static __attribute__((noinline)) vf name(vf a, vf b) { \
    vf r;                                                \
    for (int i = 0; i < VL; i++) r[i] = expression;      \
    return r;                                            \
  }
PER_LANE(lanes_sin, ((void)b, __builtin_sinf(a[i])))
PER_LANE(lanes_cos, ((void)b, __builtin_cosf(a[i])))
PER_LANE(lanes_pow, __builtin_powf(a[i], b[i]))
#undef PER_LANE
INLINE vf v_sin(vf a) { return lanes_sin(a, a); }
INLINE vf v_cos(vf a) { return lanes_cos(a, a); }
INLINE vf v_pow(vf a, vf b) { return lanes_pow(a, b); }
