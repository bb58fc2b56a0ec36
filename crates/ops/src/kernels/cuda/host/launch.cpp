// How the tests launch a kernel; behind the kernels and the table of their ENTRYs, `entries`.

extern "C" const char *launch(const char *name, unsigned grid, unsigned threads, int order, void **arguments,
                              unsigned count) {
    for (const Entry_ &entry : entries) {
        if (strcmp(entry.name, name)) continue;
        if (entry.arguments != count) return "a kernel has another number of arguments";
        return machine.launch(entry.run, grid, threads, static_cast<Order>(order), arguments);
    }
    return "there is no such kernel";
}
