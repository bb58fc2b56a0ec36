// Sums over rows, in parts that do not depend on the card.

// Of each group, a [rows, stride] and its first `width` columns, the sums over parts of `part` rows: to the columns of
// sums [groups, parts, out_stride]. With `b`, of the products a * b. A block takes `lanes` columns, a power of two.
KERNEL sum_rows(const float *a, const float *b, float *sums, Index rows, Index width, Index stride, Index out_stride,
                Index part, Index parts, Index lanes) {
    SHARED(Numbers, room);
    Index tiles = (width + lanes - 1) / lanes;
    Index column = blockIdx.x % tiles * lanes + threadIdx.x % lanes;
    Index which = blockIdx.x / tiles % parts, group = blockIdx.x / tiles / parts;
    float sum = 0.0f;
    if (column < width) {
        Index end = lesser(rows, (which + 1) * part);
        for (Index row = which * part + threadIdx.x / lanes; row < end; row += THREADS / lanes) {
            Index at = (group * rows + row) * stride + column;
            sum += b ? a[at] * b[at] : a[at];
        }
    }
    sum = sum_lanes(room, sum, lanes);
    if (threadIdx.x < lanes && column < width) sums[(group * parts + which) * out_stride + column] = sum;
}

// The sum of `count` numbers, by one block: to `total`, and divided to `mean`, each unless it is null.
KERNEL total(const double *numbers, Index count, double divisor, double *total, float *mean) {
    SHARED(Doubles, room);
    double sum = 0.0;
    for (Index i = threadIdx.x; i < count; i += THREADS) sum += numbers[i];
    sum = sum_block(room, sum);
    if (threadIdx.x == 0 && total) *total = sum;
    if (threadIdx.x == 0 && mean) *mean = (float)(sum / divisor);
}
