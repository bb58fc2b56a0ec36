// Orders of numbers in memory, copies of parts of features, zero padding.

// Rows of a tile, of which a thread copies TILE / 8; a column more than there are, so that the reads of a column meet
// different banks.
#define TILE 32u

struct Tile {
    float at[TILE][TILE + 1];
};

// x [b, rows, columns] to y [b, columns, rows], a tile for each block.
KERNEL transpose(const float *x, float *y, Index rows, Index columns) {
    SHARED(Tile, tile);
    Index across = (columns + TILE - 1) / TILE, down = (rows + TILE - 1) / TILE;
    Index left = blockIdx.x % across * TILE, top = blockIdx.x / across % down * TILE;
    Index start = blockIdx.x / across / down * rows * columns;
    Index lane = threadIdx.x % TILE, first = threadIdx.x / TILE;
    for (Index i = first; i < TILE; i += THREADS / TILE) {
        if (top + i < rows && left + lane < columns) tile.at[i][lane] = x[start + (top + i) * columns + left + lane];
    }
    __syncthreads();
    for (Index i = first; i < TILE; i += THREADS / TILE) {
        if (left + i < columns && top + lane < rows) y[start + (left + i) * rows + top + lane] = tile.at[lane][i];
    }
}

// x [b, outer, inner, d] to y [b, inner, outer, d]: tokens with heads to heads with tokens, and back.
KERNEL swap_middle(const float *x, float *y, Index outer, Index inner, Index d, Index count) {
    EACH(i, count) {
        Index at = i % d, row = i / d, o = row % outer, n = row / outer % inner, image = row / outer / inner;
        y[i] = x[((image * outer + o) * inner + n) * d + at];
    }
}

// The channels of `a` and then those of `b`, pixel by pixel.
KERNEL concat(const float *a, const float *b, float *y, Index ca, Index cb, Index count) {
    EACH(i, count) {
        Index pixel = i / (ca + cb), c = i % (ca + cb);
        y[i] = c < ca ? a[pixel * ca + c] : b[pixel * cb + c - ca];
    }
}

KERNEL split(const float *grad, float *da, float *db, Index ca, Index cb, Index count) {
    EACH(i, count) {
        Index pixel = i / (ca + cb), c = i % (ca + cb);
        if (c < ca) {
            da[pixel * ca + c] = grad[i];
        } else {
            db[pixel * cb + c - ca] = grad[i];
        }
    }
}

// x [b, h, w, c] within zeros, `top` and `left` of them before it: y [b, ph, pw, c]. What does not fit is left out.
KERNEL pad(const float *x, float *y, Index h, Index w, Index top, Index left, Index ph, Index pw, Index c,
           Index count) {
    EACH(i, count) {
        Place to = place(i, ph, pw, c);
        bool inside = to.y >= top && to.y - top < h && to.x >= left && to.x - left < w;
        y[i] = inside ? x[((to.image * h + to.y - top) * w + to.x - left) * c + to.channel] : 0.0f;
    }
}

// Its gradient: dx [b, h, w, c] out of grad [b, ph, pw, c].
KERNEL crop(const float *grad, float *dx, Index h, Index w, Index top, Index left, Index ph, Index pw, Index c,
            Index count) {
    EACH(i, count) {
        Place to = place(i, h, w, c);
        bool inside = to.y + top < ph && to.x + left < pw;
        dx[i] = inside ? grad[((to.image * ph + to.y + top) * pw + to.x + left) * c + to.channel] : 0.0f;
    }
}
