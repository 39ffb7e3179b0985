// All jobs of a kind and an output. A group of threads (a CUDA block) takes a span of tiles, finds the jobs of the
// span, draws and stores.
//
// The unit of work is an item: 16 bytes of a destination, which one thread draws from whole Philox blocks. Items
// are aligned by global index, so a run of values may begin and end inside an item. A tile is THREADS items of one
// job; Job::tile is the number of the job's first tile (kernels/cuda/source.py computes it).

struct Item {
  uint32 part[4];
};

// --- one item ---------------------------------------------------------------------------------------------

INLINE double clamp(double x, const double* p) {
  x = x < p[LOW] ? p[LOW] : x;
  return x > p[HIGH] ? p[HIGH] : x;
}

INLINE uint64 pair(const Words& words, int i) {
  return words.word[2 * i] | (uint64)words.word[2 * i + 1] << 32;
}

// The Philox block that holds element zero.
struct from_block_zero {
  INLINE uint64 first_block(const Job& job) { return 0; }
};

struct from_any_block {
  INLINE uint64 first_block(const Job& job) { return job.integer; }
};

// A kind draws the values of one Philox block into registers; `values` is their number. `unroll` is the number of
// blocks in flight per thread: more blocks hide the latency of the rounds, but need more registers.
struct words : from_any_block {
  static constexpr int unroll = 4;
  template <class Output>
  struct Sampler {
    using Real = float;
    static constexpr int values = WORDS_PER_BLOCK;
    INLINE void draw(const Words& drawn, uint64 integer, const Real* p, uint32* to) {
#pragma unroll
      for (int i = 0; i < values; ++i) to[i] = drawn.word[i];
    }
  };
};

struct uniform : from_block_zero {
  static constexpr int unroll = 4;
  template <class Output>
  struct Sampler {
    using Real = float;
    static constexpr int values = WORDS_PER_BLOCK;
    INLINE void draw(const Words& words, uint64 integer, const Real* p, uint32* to) {
      float x[values];
#pragma unroll
      for (int i = 0; i < values; ++i) x[i] = uniform32(words.word[i], p);
      Output::put_within(x, p, to);
    }
  };
};

template <>
struct uniform::Sampler<float64> {
  using Real = double;
  static constexpr int values = WORDS_PER_BLOCK / 2;
  INLINE void draw(const Words& words, uint64 integer, const Real* p, uint32* to) {
    double x[values];
#pragma unroll
    for (int i = 0; i < values; ++i) x[i] = uniform64(pair(words, i), p);
    float64::put(x, to);
  }
};

struct central_normal : from_block_zero {
  static constexpr int unroll = 4;
  template <class Output>
  struct Sampler {
    using Real = float;
    static constexpr int values = WORDS_PER_BLOCK;
    INLINE void draw(const Words& words, uint64 integer, const Real* p, uint32* to) {
      float x[values];
#pragma unroll
      for (int i = 0; i < values; ++i) x[i] = central_normal32(words.word[i], p);
      Output::put_within(x, p, to);
    }
  };
};

struct normal : from_block_zero {
  static constexpr int unroll = 2;
  template <class Output>
  struct Sampler {
    using Real = float;
    static constexpr int values = WORDS_PER_BLOCK;
    INLINE void draw(const Words& words, uint64 integer, const Real* p, uint32* to) {
      float x[values];
      normal32(words, p, x);
      Output::put_within(x, p, to);
    }
  };
};

struct bounded_normal : from_block_zero {
  static constexpr int unroll = 1;
  template <class Output>
  struct Sampler {
    using Real = double;
    static constexpr int values = WORDS_PER_BLOCK;
    // One value at a time, since the code is long. Words and values rotate, since registers cannot be indexed.
    INLINE void draw(Words words, uint64 integer, const Real* p, uint32* to) {
      float x[values] = {};
#pragma unroll 1
      for (int turn = 0; turn < values; ++turn) {
        const float next = ieee::to_float32(clamp(bounded_normal64(words.word[0], integer, p), p));
#pragma unroll
        for (int i = 0; i < values; ++i) {
          x[i] = i + 1 < values ? x[i + 1] : next;
          words.word[i] = words.word[(i + 1) % values];
        }
      }
      Output::put(x, to);
    }
  };
};

template <>
struct bounded_normal::Sampler<float64> {
  using Real = double;
  static constexpr int values = WORDS_PER_BLOCK / 2;
  INLINE void draw(const Words& words, uint64 integer, const Real* p, uint32* to) {
    double x[values];
#pragma unroll
    for (int i = 0; i < values; ++i) x[i] = clamp(bounded_normal64(pair(words, i), integer, p), p);
    float64::put(x, to);
  }
};

// Draws no words; its "block" is a whole item.
struct constant : from_block_zero {
  static constexpr int unroll = 4;
  template <class Output>
  struct Sampler {
    using Real = float;
    static constexpr int values = 16 / Output::size;
    INLINE void draw(const Words& words, uint64 integer, const Real* p, uint32* to) { Output::put(integer, to); }
  };
};

// --- one job ----------------------------------------------------------------------------------------------

template <class Kind, class Output>
struct Filler {
  using Sampler = typename Kind::template Sampler<Output>;
  using Real = typename Sampler::Real;
  static constexpr int values = 16 / Output::size;            // per item
  static constexpr int blocks = values / Sampler::values;     // per item
  static constexpr int registers = 4 / blocks;                // per block
  static constexpr int unroll = Kind::unroll > blocks ? Kind::unroll / blocks : 1;

  // The data that all items of a job share.
  struct Source {
    uint64 stream, integer;
    Real p[JOB_PARAMETERS];
  };

  INLINE Source source_of(const Job& job) {
    Source source;
    source.stream = job.stream;
    source.integer = job.integer;
#pragma unroll
    for (int i = 0; i < JOB_PARAMETERS; ++i) source.p[i] = real(job.parameters[i], Real());
    return source;
  }

  INLINE float real(double value, float) { return ieee::to_float32(value); }
  INLINE double real(double value, double) { return value; }

  // The item whose first block is (high, low); the low word does not overflow within an item.
  INLINE Item draw(uint32 low, uint32 high, const Source& source, const RoundKeys& keys) {
    Item item;
#pragma unroll
    for (int i = 0; i < blocks; ++i)
      Sampler::draw(philox_words(low + i, high, source.stream, keys), source.integer, source.p,
                    item.part + i * registers);
    return item;
  }

  // Items [first, last) of the job, distributed over the threads of this group.
  INLINE void fill(const Job& job, int64 first, int64 last, const RoundKeys& keys) {
    const Source source = source_of(job);
    const int64 row = job.extent[3], row_count = job.extent[0] * job.extent[1] * job.extent[2];
    const uint64 steps = job.index_step[0] | job.index_step[1] | job.index_step[2];
    // The position of a row's start in its first item: the same for all rows, or else the worst case.
    const int64 phase = steps % values == 0 ? job.start % values : values - 1;
    const int64 row_items = (phase + row + values - 1) / values;
    if (last > row_count * row_items) last = row_count * row_items;

    // Whole items of one aligned run, [inner, outer), need no checks; all other items are handled one by one.
    const uint64 base = job.address - (uint64)phase * Output::size;
    const bool plain = row_count == 1 && job.byte_step[3] == Output::size && base % sizeof(Item) == 0;
    int64 inner = phase ? 1 : 0, outer = (phase + row) / values;
    inner = inner > first ? inner : first;
    outer = outer < last ? outer : last;
    const uint64 block = Kind::first_block(job) + (job.start / values + inner) * blocks;
    const uint64 end = block + (outer - inner) * blocks;
    if (!plain || inner >= outer || block >> 32 != (end - 1) >> 32) inner = outer = last;

    uint64 to = base + (inner + threadIdx.x) * sizeof(Item);
    uint32 low = (uint32)block + threadIdx.x * blocks;
    const uint32 high = (uint32)(block >> 32);
    const int count = (int)(outer - inner);
#pragma unroll unroll
    for (int i = threadIdx.x; i < count; i += THREADS) {
      memory::store(to, draw(low, high, source, keys).part);
      to += THREADS * sizeof(Item);
      low += THREADS * blocks;
    }

    const int64 before = inner - first, others = before + (last - outer);
#pragma unroll 1
    for (int64 i = threadIdx.x; i < others; i += THREADS)
      fill_item(job, row_items, i < before ? first + i : outer + (i - before), source, keys);
  }

  // One item of any job: its values that are in the row, stored together if possible, else one by one.
  INLINE void fill_item(const Job& job, int64 row_items, int64 item, const Source& source, const RoundKeys& keys) {
    int64 row = item / row_items;
    const int64 place = item - row * row_items;
    const int64 i2 = row % job.extent[2];
    row /= job.extent[2];
    const int64 i1 = row % job.extent[1], i0 = row / job.extent[1];
    const uint64 start =
        job.start + i0 * job.index_step[0] + i1 * job.index_step[1] + i2 * job.index_step[2];
    const uint64 address =
        job.address + i0 * job.byte_step[0] + i1 * job.byte_step[1] + i2 * job.byte_step[2];
    const uint64 block = Kind::first_block(job) + (start / values + place) * blocks;
    const int64 offset = place * values - (int64)(start % values);  // position of the first value in the row
    const int64 extent = job.extent[3], step = job.byte_step[3];
    if (offset >= extent) return;

    const Item drawn = draw((uint32)block, (uint32)(block >> 32), source, keys);
    const uint64 to = address + offset * step;
    if (step == Output::size && offset >= 0 && offset + values <= extent && to % sizeof(Item) == 0) {
      memory::store(to, drawn.part);
      return;
    }
#pragma unroll
    for (int i = 0; i < values; ++i)
      if (offset + i >= 0 && offset + i < extent) store_value(to + i * step, drawn, i);
  }

  INLINE void store_value(uint64 to, const Item& item, int i) {
    if (Output::size == 8)
      memory::store(to, item.part[2 * i % 4] | (uint64)item.part[2 * i % 4 + 1] << 32);
    else if (Output::size == 4)
      memory::store(to, item.part[i % 4]);
    else if (Output::size == 2)
      memory::store(to, (uint16)(item.part[i / 2 % 4] >> 16 * (i % 2)));
    else
      memory::store(to, (uint8)(item.part[i / 4] >> 8 * (i % 4)));
  }
};

// --- all jobs ---------------------------------------------------------------------------------------------

// The last job in [first, count) whose first tile is not after `tile`.
INLINE int64 job_of(const Job* jobs, int64 first, int64 count, int64 tile) {
  while (count - first > 1) {
    const int64 middle = first + (count - first) / 2;
    if (jobs[middle].tile <= tile)
      first = middle;
    else
      count = middle;
  }
  return first;
}

template <class Kind, class Output>
INLINE void fill(const Job* jobs, int64 count, int64 tiles, int64 span, const RoundKeys& keys) {
  int64 job = 0;
  for (int64 tile = blockIdx.x * span; tile < tiles; tile += (gridDim.x - 1) * span) {
    const int64 end = tile + span < tiles ? tile + span : tiles;
    for (job = job_of(jobs, job, count, tile); tile < end; ++job) {
      const int64 next = job + 1 < count ? jobs[job + 1].tile : tiles;
      const int64 stop = next < end ? next : end, origin = jobs[job].tile;
      Filler<Kind, Output>::fill(jobs[job], (tile - origin) * THREADS, (stop - origin) * THREADS, keys);
      tile = stop;
    }
    --job;
  }
}

// --- rounding of values that were computed before -----------------------------------------------------------

template <class Output>
INLINE void round_all(const float* from, uint64 to, int64 count) {
  const int64 step = (int64)gridDim.x * THREADS * WORDS_PER_BLOCK;
  for (int64 i = ((int64)blockIdx.x * THREADS + threadIdx.x) * WORDS_PER_BLOCK; i < count; i += step) {
    float x[WORDS_PER_BLOCK];
    uint32 part[Output::size];
#pragma unroll
    for (int k = 0; k < WORDS_PER_BLOCK; ++k) x[k] = i + k < count ? from[i + k] : 0.0f;
    Output::put(x, part);
#pragma unroll
    for (int k = 0; k < Output::size; ++k) memory::store(to + i * Output::size + k * sizeof(uint32), part[k]);
  }
}
