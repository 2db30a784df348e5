// 3 × 3 convolutions with a quarter of the multiplications, fused with the norm and activation before.
//
//     y = Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A      for M × M pixels y, M + 2 × M + 2 pixels d (Lavin & Gray 2016)
//
// Summed over input channels, the product ⊙ is (M + 2)² products of matrices, U (weights) and V (image).
// Images are (n, height, width, channels), so that a vector register holds neighbouring channels.
// A dilation d makes d × d interleaved images, each with tiles of its own.
//
// A convolution reads f((x − mean)·scale + offset), f the identity, ELU or SiLU, and adds bias and plus.

#include <algorithm>
#include <omp.h>

#include "vectors.h"

// registers hold ROWS × COLUMNS vectors of sums, a row of the right matrix, an element of the left
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int COLUMNS = 4, ROWS = 6;
#else
constexpr int COLUMNS = 2, ROWS = 6;
#endif
constexpr int64_t PANEL = COLUMNS * LANES;

static thread_local Scratch image_scratch, left_scratch, right_scratch;

// ── Products of matrices ────────────────────────────────────────────────────────────────────────

// R rows and NV vectors of columns of c (+)= a·b; a's element (r, l) is at a[r·row + l·step].
template <int R, int NV>
static void block(const float* a, int64_t row, int64_t step, const float* b, int64_t b_row, float* c,
                  int64_t c_row, int64_t length, bool add) {
    vec sum[R][NV];
    for (int r = 0; r < R; r++)
        for (int v = 0; v < NV; v++)
            sum[r][v] = add ? load(c + r * c_row + v * LANES) : vec{};
    for (int64_t l = 0; l < length; l++) {
        vec right[NV];
#pragma GCC unroll 8
        for (int v = 0; v < NV; v++) right[v] = load(b + l * b_row + v * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 8
            for (int v = 0; v < NV; v++) sum[r][v] += a[r * row + l * step] * right[v];
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < NV; v++) store(c + r * c_row + v * LANES, sum[r][v]);
}

template <int NV>
static void rows_of(const float* a, int64_t row, int64_t step, const float* b, int64_t b_row,
                    float* c, int64_t c_row, int64_t rows, int64_t length, bool add) {
    constexpr decltype(&block<1, NV>) blocks[] = {block<1, NV>, block<2, NV>, block<3, NV>,
                                                  block<4, NV>, block<5, NV>, block<6, NV>};
    for (int64_t r = 0; r < rows; r += ROWS)
        blocks[std::min<int64_t>(ROWS, rows - r) - 1](a + r * row, row, step, b, b_row,
                                                      c + r * c_row, c_row, length, add);
}

// `width` columns, a multiple of LANES, at most PANEL.
static void product(const float* a, int64_t row, int64_t step, const float* b, int64_t b_row,
                    float* c, int64_t c_row, int64_t rows, int64_t width, int64_t length, bool add) {
    constexpr decltype(&rows_of<1>) widths[] = {rows_of<1>, rows_of<2>, rows_of<3>, rows_of<4>};
    widths[width / LANES - 1](a, row, step, b, b_row, c, c_row, rows, length, add);
}

// ── The transforms, each along one axis ─────────────────────────────────────────────────────────

// Polynomials are multiplied by their values at N = M + 2 points, which makes M outputs of 3 taps:
// pairs ±p, ∞, and where N is even 0. These points round less than the usual 0, ±1, ±2, ...
template <int M> struct Axis {
    static constexpr int N = M + 2, ZERO = N % 2 == 0, PAIRS = (M + 1) / 2;
    float p[PAIRS] = {}, scale[PAIRS] = {};  // scale in Lagrange's formula
    float whole[PAIRS + 1] = {};             // Π (x² − p²), in powers of x²
    float without[PAIRS][PAIRS] = {};        // the same without one of them
    float sign = ZERO ? 1 : -1;              // sign of the scale at −p

    constexpr Axis() {
        const double points[][4] = {{0.625, 1.5}, {0.25, 0.875, 1.75}, {}, {0.25, 0.75, 1.125, 2.25}};
        for (int i = 0; i < PAIRS; i++) p[i] = points[M - 4][i];
        for (int skip = 0; skip <= PAIRS; skip++) {
            double product[PAIRS + 2] = {1}, gap = 1;
            for (int i = 0, k = 0; i < PAIRS; i++) {
                if (i == skip) continue;
                k++;
                for (int j = k; j >= 0; j--)
                    product[j] = (j ? product[j - 1] : 0) - double(p[i]) * p[i] * (j < k ? product[j] : 0);
                if (skip < PAIRS) gap *= double(p[skip]) * p[skip] - double(p[i]) * p[i];
            }
            for (int j = 0; j <= PAIRS; j++)
                if (skip == PAIRS) whole[j] = product[j];
                else if (j < PAIRS) without[skip][j] = product[j];
            if (skip < PAIRS) scale[skip] = 1 / (2 * (ZERO ? p[skip] : 1) * p[skip] * gap);
        }
    }
};
template <int M> constexpr Axis<M> AXIS{};

#define EACH _Pragma("GCC unroll 8") for

template <int M, class T> static inline void image_axis(const T* d, int64_t s, T* out, int64_t t) {  // Bᵀ
    constexpr auto& A = AXIS<M>;
    T first = d[0] * A.whole[0], last = d[A.ZERO * s] * A.whole[0];
    EACH(int k = 1; k <= A.PAIRS; k++) {
        first += d[2 * k * s] * A.whole[k];
        last += d[(2 * k + A.ZERO) * s] * A.whole[k];
    }
    if (A.ZERO) out[0] = first;
    EACH(int i = 0; i < A.PAIRS; i++) {
        T even = d[A.ZERO * s] * A.without[i][0], odd = d[(1 + A.ZERO) * s] * A.without[i][0];
        EACH(int k = 1; k < A.PAIRS; k++) {
            even += d[(2 * k + A.ZERO) * s] * A.without[i][k];
            odd += d[(2 * k + 1 + A.ZERO) * s] * A.without[i][k];
        }
        out[(2 * i + A.ZERO) * t] = odd + even * A.p[i];
        out[(2 * i + 1 + A.ZERO) * t] = odd - even * A.p[i];
    }
    out[(A.N - 1) * t] = last;
}

template <int M, class T> static inline void sum_axis(const T* m, int64_t s, T* out, int64_t t) {  // Aᵀ
    constexpr auto& A = AXIS<M>;
    T sum[M] = {};
    EACH(int i = 0; i < A.PAIRS; i++) {
        const T *plus = m + (2 * i + A.ZERO) * s, *minus = plus + s;
        T even = *plus + *minus, odd = *plus - *minus;
        EACH(int j = 0; j < M; j++) {
            sum[j] += j % 2 ? odd : even;
            (j % 2 ? odd : even) *= A.p[i] * A.p[i];
            if (j == 0) odd *= A.p[i];
        }
    }
    if (A.ZERO) sum[0] += m[0];
    sum[M - 1] += m[(A.N - 1) * s];
    EACH(int j = 0; j < M; j++) out[j * t] = sum[j];
}

template <int M, class T> static inline void spread_axis(const T* y, int64_t s, T* out, int64_t t) {  // A
    constexpr auto& A = AXIS<M>;
    if (A.ZERO) out[0] = y[0];
    EACH(int i = 0; i < A.PAIRS; i++) {
        T even = y[(M - 1) / 2 * 2 * s], odd = y[(M / 2 * 2 - 1) * s];
        EACH(int j = (M - 1) / 2 * 2 - 2; j >= 0; j -= 2) even = even * (A.p[i] * A.p[i]) + y[j * s];
        EACH(int j = M / 2 * 2 - 3; j >= 0; j -= 2) odd = odd * (A.p[i] * A.p[i]) + y[j * s];
        out[(2 * i + A.ZERO) * t] = even + odd * A.p[i];
        out[(2 * i + 1 + A.ZERO) * t] = even - odd * A.p[i];
    }
    out[(A.N - 1) * t] = y[(M - 1) * s];
}

template <int M, class T> static inline void weight_axis(const T* g, int64_t s, T* out, int64_t t) {  // G
    constexpr auto& A = AXIS<M>;
    if (A.ZERO) out[0] = g[0] * (1 / A.whole[0]);
    EACH(int i = 0; i < A.PAIRS; i++) {
        T even = (g[0] + g[2 * s] * (A.p[i] * A.p[i])) * A.scale[i], odd = g[s] * (A.p[i] * A.scale[i]);
        out[(2 * i + A.ZERO) * t] = even + odd;
        out[(2 * i + 1 + A.ZERO) * t] = (even - odd) * A.sign;
    }
    out[(A.N - 1) * t] = g[2 * s];
}

template <int M, class T> static inline void tap_axis(const T* u, int64_t s, T* out, int64_t t) {  // Gᵀ
    constexpr auto& A = AXIS<M>;
    T tap[3] = {A.ZERO ? u[0] * (1 / A.whole[0]) : T{}, T{}, u[(A.N - 1) * s]};
    EACH(int i = 0; i < A.PAIRS; i++) {
        T plus = u[(2 * i + A.ZERO) * s], minus = u[(2 * i + 1 + A.ZERO) * s] * A.sign;
        tap[0] += (plus + minus) * A.scale[i];
        tap[1] += (plus - minus) * (A.scale[i] * A.p[i]);
        tap[2] += (plus + minus) * (A.scale[i] * A.p[i] * A.p[i]);
    }
    EACH(int j = 0; j < 3; j++) out[j * t] = tap[j];
}
// ── Tiles ───────────────────────────────────────────────────────────────────────────────────────

// Rows of tiles, over all images and, with a dilation d, their d × d interleaved parts.
template <int M> struct Grid {
    int64_t height, width, d, down, across, rows, tiles;
    Grid(int64_t n, int64_t height, int64_t width, int64_t d)
        : height(height), width(width), d(d), down(((height + d - 1) / d + M - 1) / M),
          across(((width + d - 1) / d + M - 1) / M), rows(n * d * down), tiles(d * across) {}
    int64_t image(int64_t row) const { return row / (d * down); }
    int64_t y(int64_t row, int64_t i) const { return row / down % d + d * (M * (row % down) + i); }
    int64_t x(int64_t tile, int64_t j) const { return tile / across + d * (M * (tile % across) + j); }
    // The M × M pixels of a tile as offsets into images of c channels, -1 outside.
    void pixels(int64_t row, int64_t tile, int64_t c, int64_t* at) const {
        int64_t first = y(row, 0), left = x(tile, 0), start = image(row) * height;
        for (int64_t i = 0; i < M * M; i++) {
            int64_t y = first + i / M * d, x = left + i % M * d;
            at[i] = y < height && x < width ? ((start + y) * width + x) * c : -1;
        }
    }
};

// Bᵀ d B for rows of tiles, each position to a plane of v, each tile to a row of it.
template <int M>
static void image_tiles(const float* x, const float* norms, int function, int64_t channels,
                        const Grid<M>& g, int64_t row, int64_t rows, float* v, int64_t v_row,
                        int64_t plane) {
    int64_t padded = round_up(channels, LANES), columns = M * g.across + 2;
    for (int64_t run; rows > 0; row += run, rows -= run) {
        run = std::min(rows, g.down - row % g.down);
        // the pixels that these rows read, f(norm(x)), with the d interleaved parts separated
        float* strip = image_scratch.get((M * run + 2) * g.d * columns * padded);
        Norm norm(norms, g.image(row), padded);
        float* to = strip;
        for (int64_t i = -1; i <= M * run; i++)
            for (int64_t p = 0; p < g.d; p++)
                for (int64_t j = -1; j <= M * g.across; j++, to += padded) {
                    int64_t y = g.y(row, i), at = p + g.d * j;
                    if (y < 0 || y >= g.height || at < 0 || at >= g.width) {
                        std::memset(to, 0, 4 * padded);
                        continue;
                    }
                    const float* from = x + ((g.image(row) * g.height + y) * g.width + at) * channels;
                    for (int64_t c = 0; c < padded; c += LANES) {
                        vec z = norm(some(from, c, channels), c);
                        store(to + c, activation(function, z));
                    }
                }
        const int64_t next = padded / LANES, below = g.d * columns * next;
        for (int64_t r = 0; r < run; r++)
            for (int64_t tile = 0; tile < g.tiles; tile++, v += v_row) {
                int64_t start = M * r * g.d * columns + tile / g.across * columns + tile % g.across * M;
                for (int64_t c = 0; c < padded; c += LANES) {
                    const vec* d = (const vec*)(strip + start * padded + c);
                    constexpr int N = M + 2;
                    vec half[N * N];
                    for (int j = 0; j < N; j++) image_axis<M>(d + j * next, below, half + j, N);
                    for (int i = 0; i < N; i++)
                        image_axis<M>(half + N * i, 1, (vec*)(v + N * i * plane + c), plane / LANES);
                }
            }
    }
}

// A dy Aᵀ for rows of tiles, laid out as above.
template <int M>
static void spread_tiles(const float* dy, int64_t features, const Grid<M>& g, int64_t row, int64_t rows,
                         float* m, int64_t m_row, int64_t plane) {
    int64_t padded = round_up(features, LANES);
    for (int64_t r = row; r < row + rows; r++)
        for (int64_t tile = 0; tile < g.tiles; tile++, m += m_row) {
            int64_t at[M * M];
            g.pixels(r, tile, features, at);
            for (int64_t k = 0; k < padded; k += LANES) {
                constexpr int N = M + 2;
                vec y[M * M], half[M * N];
                for (int i = 0; i < M * M; i++)
                    y[i] = at[i] < 0 ? vec{} : some(dy + at[i], k, features);
                for (int j = 0; j < M; j++) spread_axis<M>(y + j, M, half + j, M);
                for (int i = 0; i < N; i++)
                    spread_axis<M>(half + M * i, 1, (vec*)(m + N * i * plane + k), plane / LANES);
            }
        }
}

// Aᵀ m A for rows of tiles, plus bias and image.
template <int M>
static void result_tiles(const float* m, int64_t m_row, int64_t plane, const float* biases,
                         int64_t bias_step, const float* plus, float* out, int64_t features,
                         const Grid<M>& g, int64_t row, int64_t rows) {
    int64_t padded = round_up(features, LANES);
    for (int64_t r = row; r < row + rows; r++) {
        const float* bias = biases ? biases + g.image(r) * bias_step : nullptr;
        for (int64_t tile = 0; tile < g.tiles; tile++, m += m_row) {
            int64_t at[M * M];
            g.pixels(r, tile, features, at);
            for (int64_t k = 0; k < padded; k += LANES) {
                constexpr int N = M + 2;
                vec half[M * N], y[M * M], start = bias ? some(bias, k, features) : vec{};
                for (int j = 0; j < N; j++)
                    sum_axis<M>((const vec*)(m + j * plane + k), N * plane / LANES, half + j, N);
                for (int i = 0; i < M; i++) sum_axis<M>(half + N * i, 1, y + M * i, 1);
                for (int i = 0; i < M * M; i++)
                    if (at[i] >= 0) {
                        vec sum = y[i] + start;
                        if (plus) sum += some(plus + at[i], k, features);
                        put(out + at[i], k, features, sum);
                    }
            }
        }
    }
}


// ── Called from Python ──────────────────────────────────────────────────────────────────────────

constexpr int64_t TILES = 48, LARGE_TILES = 18, MANY_TILES = 384;  // tiles at a time that fit the caches

// U = G g Gᵀ of weights g[k·k_step + c·c_step + tap], with the taps reversed if `flip`.
template <int M>
static void weights_by(const float* g, int64_t k_step, int64_t c_step, bool flip, int64_t channels,
                       int64_t features, float* u, int threads) {
    int64_t padded = round_up(features, LANES), plane = channels * padded;
#pragma omp parallel for num_threads(threads)
    for (int64_t c = 0; c < channels; c++)
        for (int64_t k = 0; k < padded; k += LANES) {
            constexpr int N = M + 2;
            vec taps[9] = {}, half[3 * N];
            for (int64_t lane = 0; lane < std::min<int64_t>(LANES, features - k); lane++)
                for (int i = 0; i < 9; i++)
                    taps[i][lane] = g[(k + lane) * k_step + c * c_step + (flip ? 8 - i : i)];
            int64_t panel = k / PANEL * PANEL, width = std::min(PANEL, padded - panel);
            float* to = u + panel * channels + c * width + k - panel;
            for (int j = 0; j < 3; j++) weight_axis<M>(taps + j, 3, half + j, 3);
            for (int i = 0; i < N; i++)
                weight_axis<M>(half + 3 * i, 1, (vec*)(to + N * i * plane), plane / LANES);
        }
}

template <int M>
static void convolve_by(const float* x, const float* norms, int function, const float* u,
                        const float* bias, int64_t bias_step, const float* plus, float* out,
                        int64_t n, int64_t height, int64_t width, int64_t channels,
                        int64_t features, int64_t dilation, int threads) {
    constexpr int POSITIONS = (M + 2) * (M + 2);
    Grid<M> g(n, height, width, dilation);
    int64_t in = round_up(channels, LANES), padded = round_up(features, LANES);
    const int64_t few = M == 7 ? LARGE_TILES : TILES;
    int64_t rows = std::max<int64_t>(1, std::min(few / g.tiles, (g.rows + threads - 1) / threads));
    int64_t tiles = rows * g.tiles;
    // one extra line: planes a power of 2 apart would share a set of the cache
    int64_t v_plane = tiles * in + 16, m_plane = tiles * padded + 16;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t row = 0; row < g.rows; row += rows) {
        int64_t here = std::min(rows, g.rows - row);
        float *v = left_scratch.get(POSITIONS * v_plane), *m = right_scratch.get(POSITIONS * m_plane);
        image_tiles(x, norms, function, channels, g, row, here, v, in, v_plane);
        for (int64_t i = 0; i < POSITIONS; i++)
            for (int64_t k = 0; k < padded; k += PANEL) {
                int64_t panel = std::min(PANEL, padded - k);
                product(v + i * v_plane, in, 1, u + (i * padded + k) * channels, panel,
                        m + i * m_plane + k, padded, here * g.tiles, panel, channels, false);
            }
        result_tiles(m, padded, m_plane, bias, bias_step, plus, out, features, g, row, here);
    }
}

// The gradient of the weights, Gᵀ(Σ Vᵀ·A dy Aᵀ)G, as (features, channels, 3, 3).
template <int M>
static void correlate_by(const float* x, const float* norms, int function, const float* dy, float* dg,
                         int64_t n, int64_t height, int64_t width, int64_t channels,
                         int64_t features, int64_t dilation, int threads) {
    constexpr int N = M + 2, POSITIONS = N * N;
    Grid<M> g(n, height, width, dilation);
    int64_t padded = round_up(features, LANES), in = round_up(channels, LANES) + 16, out = padded + 16;
    int64_t rows = std::min(g.rows, std::max<int64_t>(1, MANY_TILES / g.tiles));
    int64_t v_plane = rows * g.tiles * in + 16, m_plane = rows * g.tiles * out + 16;
    float* v = left_scratch.get(POSITIONS * (v_plane + m_plane)), *m = v + POSITIONS * v_plane;
    float* du = right_scratch.get(POSITIONS * channels * padded);
#pragma omp parallel num_threads(threads)
    {
        for (int64_t row = 0; row < g.rows; row += rows) {
            int64_t here = std::min(rows, g.rows - row);
#pragma omp for schedule(dynamic)
            for (int64_t r = 0; r < here; r += 4) {
                int64_t few = std::min<int64_t>(4, here - r), tile = r * g.tiles;
                image_tiles(x, norms, function, channels, g, row + r, few, v + tile * in, in, v_plane);
                spread_tiles(dy, features, g, row + r, few, m + tile * out, out, m_plane);
            }
#pragma omp for schedule(dynamic)
            for (int64_t i = 0; i < POSITIONS; i++)
                for (int64_t k = 0; k < padded; k += PANEL)
                    product(v + i * v_plane, 1, in, m + i * m_plane + k, out,
                            du + i * channels * padded + k, padded, channels,
                            std::min(PANEL, padded - k), here * g.tiles, row > 0);
        }
#pragma omp for
        for (int64_t c = 0; c < channels; c++)
            for (int64_t k = 0; k < padded; k += LANES) {
                vec half[3 * N], taps[9];
                const float* from = du + c * padded + k;
                int64_t plane = channels * padded;
                for (int j = 0; j < N; j++)
                    tap_axis<M>((const vec*)(from + j * plane), N * plane / LANES, half + j, N);
                for (int i = 0; i < 3; i++) tap_axis<M>(half + N * i, 1, taps + 3 * i, 1);
                for (int64_t lane = 0; lane < std::min<int64_t>(LANES, features - k); lane++)
                    for (int i = 0; i < 9; i++)
                        dg[((k + lane) * channels + c) * 9 + i] = taps[i][lane];
            }
    }
}

// Mix x into the hash h: bijective in each of them, and not a sum (sums cancel where all weights change
// alike, as in their signs).
static inline words mix(words h, words x) {
    h ^= x;
    h = ((h << 13) | (h >> 19)) * 0x9e3779b1u;
    return h ^ (h >> 16);
}

// A hash of 4 × LANES numbers, the same for any number of threads.
extern "C" void fingerprint(const float* x, int64_t count, uint32_t* out, int threads) {
    constexpr int64_t STEP = 4 * LANES, BLOCK = 1024 * STEP;
    const int64_t blocks = (count + BLOCK - 1) / BLOCK;
    words* part = (words*)left_scratch.get(blocks * STEP);
#pragma omp parallel for num_threads(threads) if (blocks > 4)
    for (int64_t b = 0; b < blocks; b++) {
        words here[4] = {};
        const float* from = x + b * BLOCK;
        const int64_t size = std::min(BLOCK, count - b * BLOCK);
        for (int64_t i = 0; i < size; i += STEP)
            for (int v = 0; v < 4; v++)
                here[v] = mix(here[v], (words)some(from, i + v * LANES, size));
        std::memcpy(part + 4 * b, here, sizeof here);
    }
    words all[4] = {};
    for (int64_t b = 0; b < blocks; b++)
        for (int v = 0; v < 4; v++) all[v] = mix(all[v], part[4 * b + v]);
    std::memcpy(out, all, sizeof all);
}

// For tiles of 4 × 4, 5 × 5 or (coarse) 7 × 7 outputs, which Python chooses by the size of the image.
extern "C" {
void transform_weights(int tile, const float* g, int64_t k_step, int64_t c_step, bool flip,
                       int64_t channels, int64_t features, float* u, int threads) {
    (tile == 7 ? weights_by<7> : tile == 5 ? weights_by<5> : weights_by<4>)(g, k_step, c_step, flip, channels, features, u, threads);
}

void convolve(int tile, const float* x, const float* norms, int function, const float* u,
              const float* bias, int64_t bias_step, const float* plus, float* out, int64_t n,
              int64_t height, int64_t width, int64_t channels, int64_t features, int64_t dilation,
              int threads) {
    (tile == 7 ? convolve_by<7> : tile == 5 ? convolve_by<5> : convolve_by<4>)(
        x, norms, function, u, bias, bias_step, plus, out, n, height, width, channels, features, dilation, threads);
}

void correlate(int tile, const float* x, const float* norms, int function, const float* dy, float* dg,
               int64_t n, int64_t height, int64_t width, int64_t channels, int64_t features,
               int64_t dilation, int threads) {
    (tile == 5 ? correlate_by<5> : correlate_by<4>)(x, norms, function, dy, dg, n, height, width,
                                                    channels, features, dilation, threads);
}
}
