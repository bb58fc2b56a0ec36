// Group normalisation, and SiLU behind it where asked for. Sums are taken by channels, which lie side by side, and then
// folded into groups.

// Numbers without themselves: how many, their mean, and the sum of squares of what is apart from it.
struct Moments {
    float count, mean, squares;
};

struct BlockMoments {
    Moments of[THREADS];
};

__device__ inline Moments merged(Moments a, Moments b) {
    if (b.count == 0.0f) return a;
    if (a.count == 0.0f) return b;
    float count = a.count + b.count, apart = b.mean - a.mean, share = b.count / count;
    return {count, a.mean + apart * share, a.squares + b.squares + apart * apart * a.count * share};
}

// What a thread has of features [b, pixels, c]: one channel of every `step`th pixel from `first` to `end`, of one image.
// A block has `lanes` channels, a power of two, of `part` pixels, which are part `which` of `parts`.
struct Column {
    Index channel, image, which, first, end, step;
};

__device__ inline Column column(Index pixels, Index c, Index part, Index parts, Index lanes) {
    Index tiles = (c + lanes - 1) / lanes;
    Index which = blockIdx.x / tiles % parts, image = blockIdx.x / tiles / parts;
    Index channel = blockIdx.x % tiles * lanes + threadIdx.x % lanes;
    Index end = channel < c ? lesser(pixels, (which + 1) * part) : 0; // none of a channel that there is not
    return {channel, image, which, which * part + threadIdx.x / lanes, end, THREADS / lanes};
}

// Of x [b, pixels, c], for each channel and part of `part` pixels, mean and squares: to moments [b, parts, 2, c].
KERNEL norm_moments(const float *x, float *moments, Index pixels, Index c, Index part, Index parts, Index lanes) {
    SHARED(BlockMoments, room);
    Column at = column(pixels, c, part, parts, lanes);
    Moments own = {0.0f, 0.0f, 0.0f};
    if (at.first < at.end) {
        // sums of what is apart from the first number keep their digits
        const float *of_channel = x + at.image * pixels * c + at.channel;
        float origin = of_channel[at.first * c], sum = 0.0f, squares = 0.0f;
        for (Index pixel = at.first; pixel < at.end; pixel += at.step) {
            float apart = of_channel[pixel * c] - origin;
            sum += apart;
            squares += apart * apart;
            own.count += 1.0f;
        }
        float mean = sum / own.count;
        own.mean = origin + mean;
        own.squares = squares - sum * mean;
    }
    room.of[threadIdx.x] = own;
    for (Index half = THREADS / 2; half >= lanes; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) room.of[threadIdx.x] = merged(room.of[threadIdx.x], room.of[threadIdx.x + half]);
    }
    if (threadIdx.x < lanes && at.channel < c) {
        float *to = moments + (at.image * parts + at.which) * 2 * c + at.channel;
        to[0] = room.of[threadIdx.x].mean;
        to[c] = room.of[threadIdx.x].squares;
    }
}

// From those moments to mean and 1 / deviation of each group, one warp for each: stats [2, b, groups].
KERNEL norm_fold(const float *moments, float *stats, Index pixels, Index c, Index part, Index parts, Index groups,
                 double eps, Index all) {
    Index which = blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (which >= all) return; // whole warps
    Index per_group = c / groups, first = which % groups * per_group;
    const float *of_image = moments + which / groups * parts * 2 * c;
    double size = (double)pixels * per_group, sum = 0.0, squares = 0.0;
    for (Index i = lane; i < parts * per_group; i += WARP) {
        Index at = i / per_group;
        double count = lesser(part, pixels - at * part);
        sum += count * of_image[at * 2 * c + first + i % per_group];
    }
    for (Index apart = WARP / 2; apart > 0; apart /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, apart);
    double mean = sum / size;
    for (Index i = lane; i < parts * per_group; i += WARP) {
        Index at = i / per_group;
        double count = lesser(part, pixels - at * part);
        const float *of_part = of_image + at * 2 * c + first + i % per_group;
        double apart = of_part[0] - mean;
        squares += of_part[c] + count * apart * apart;
    }
    for (Index apart = WARP / 2; apart > 0; apart /= 2) squares += __shfl_xor_sync(0xffffffffu, squares, apart);
    if (lane == 0) {
        double variance = squares / size + eps, overflow = variance - variance; // NaN where it is infinite
        stats[which] = (float)mean;
        stats[all + which] = (float)(1.0 / sqrt(variance) + overflow);
    }
}

// Two numbers of a group, out of [2, b, groups]: `all` is b * groups.
struct Pair {
    float first, second;
};

__device__ inline Pair of_group(const float *pairs, Column at, Index c, Index groups, Index all) {
    Index which = at.image * groups + at.channel / (c / groups);
    return {pairs[which], pairs[all + which]};
}

KERNEL norm_apply(const float *x, const float *stats, const float *weight, const float *bias, int by_silu, float *y,
                  Index pixels, Index c, Index groups, Index all, Index part, Index parts, Index lanes) {
    Column at = column(pixels, c, part, parts, lanes);
    if (at.first >= at.end) return;
    Pair s = of_group(stats, at, c, groups, all);
    float factor = s.second * weight[at.channel], shift = bias[at.channel];
    for (Index pixel = at.first; pixel < at.end; pixel += at.step) {
        Index i = (at.image * pixels + pixel) * c + at.channel;
        float normal = (x[i] - s.first) * factor + shift;
        y[i] = by_silu ? silu(normal) : normal;
    }
}

// For each channel and part of the pixels, the sums of t and t * normal, with t the gradient before SiLU and normal x
// without its mean and deviation: to sums [b, parts, 2, c], the products first.
KERNEL norm_slopes(const float *x, const float *stats, const float *weight, const float *bias, const float *grad,
                   int by_silu, float *sums, Index pixels, Index c, Index groups, Index all, Index part, Index parts,
                   Index lanes) {
    SHARED(Numbers, room);
    Column at = column(pixels, c, part, parts, lanes);
    float along_x = 0.0f, along_one = 0.0f;
    if (at.first < at.end) {
        Pair s = of_group(stats, at, c, groups, all);
        float factor = weight[at.channel], shift = bias[at.channel];
        for (Index pixel = at.first; pixel < at.end; pixel += at.step) {
            Index i = (at.image * pixels + pixel) * c + at.channel;
            float normal = (x[i] - s.first) * s.second, t = grad[i];
            if (by_silu) t *= silu_slope(normal * factor + shift);
            along_x += t * normal;
            along_one += t;
        }
    }
    along_x = sum_lanes(room, along_x, lanes);
    along_one = sum_lanes(room, along_one, lanes);
    if (threadIdx.x < lanes && at.channel < c) {
        float *to = sums + (at.image * parts + at.which) * 2 * c + at.channel;
        to[0] = along_x;
        to[c] = along_one;
    }
}

// From the sums over all pixels, [b, 2, c], to the weighted means over each group, means [2, b, groups].
KERNEL norm_means(const float *sums, const float *weight, float *means, Index pixels, Index c, Index groups,
                  Index all) {
    EACH(which, all) {
        Index per_group = c / groups, first = which % groups * per_group;
        const float *of_image = sums + which / groups * 2 * c;
        double along_x = 0.0, along_one = 0.0, size = (double)pixels * per_group;
        for (Index channel = first; channel < first + per_group; channel++) {
            along_x += (double)of_image[channel] * weight[channel];
            along_one += (double)of_image[c + channel] * weight[channel];
        }
        means[which] = (float)(along_x / size);
        means[all + which] = (float)(along_one / size);
    }
}

// dx = (t * weight - mean of t * weight - normal * mean of t * weight * normal) / deviation, means over the group
KERNEL norm_backward(const float *x, const float *stats, const float *means, const float *weight, const float *bias,
                     const float *grad, int by_silu, float *dx, Index pixels, Index c, Index groups, Index all,
                     Index part, Index parts, Index lanes) {
    Column at = column(pixels, c, part, parts, lanes);
    if (at.first >= at.end) return;
    Pair s = of_group(stats, at, c, groups, all), along = of_group(means, at, c, groups, all);
    float factor = weight[at.channel], shift = bias[at.channel];
    for (Index pixel = at.first; pixel < at.end; pixel += at.step) {
        Index i = (at.image * pixels + pixel) * c + at.channel;
        float normal = (x[i] - s.first) * s.second, t = grad[i];
        if (by_silu) t *= silu_slope(normal * factor + shift);
        dx[i] = s.second * (t * factor - along.second - normal * along.first);
    }
}
