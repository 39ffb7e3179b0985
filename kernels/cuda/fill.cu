// Entry points.
//
// fill_KIND_OUTPUT(jobs, number of jobs, tiles, tiles of a span, round keys)
// fill_round_OUTPUT(float32 values, address with room for whole blocks of rounded values, number of values)

#define ENTRY(kind, output)                                                                             \
  extern "C" __global__ void __launch_bounds__(THREADS, GROUPS_##kind)                                  \
      fill_##kind##_##output(const Job* jobs, int64 count, int64 tiles, int64 span,                     \
                             const __grid_constant__ RoundKeys keys) {                                  \
    fill<kind, output>(jobs, count, tiles, span, keys);                                                 \
  }

#define ROUND(output)                                                                                   \
  extern "C" __global__ void __launch_bounds__(THREADS, GROUPS_round)                                   \
      fill_round_##output(const float* from, uint64 to, int64 count) {                                  \
    round_all<output>(from, to, count);                                                                 \
  }

// The compilation of all entry points takes long; ENTRY_POINT selects one, such as ENTRY(uniform, float32).
#ifdef ENTRY_POINT
ENTRY_POINT
#else
#define ENTRIES(kind)          \
  ENTRY(kind, float32)         \
  ENTRY(kind, bfloat16)        \
  ENTRY(kind, float16)         \
  ENTRY(kind, float8_e4m3fn)   \
  ENTRY(kind, float8_e5m2)
ENTRY(words, bits32)
ENTRIES(uniform)
ENTRIES(normal)
ENTRIES(central_normal)
ENTRIES(bounded_normal)
ENTRY(uniform, float64)
ENTRY(bounded_normal, float64)
ENTRY(constant, bits8)
ENTRY(constant, bits16)
ENTRY(constant, bits32)
ENTRY(constant, bits64)
ROUND(bfloat16)
ROUND(float16)
ROUND(float8_e4m3fn)
ROUND(float8_e5m2)
#endif
