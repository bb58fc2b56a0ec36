// A card of the tests: what the kernels use of CUDA, in C++ on the host.
//
// The threads of a block are fibres, each with a stack of its own, that take turns: one runs until it waits for others,
// at a barrier or in a shuffle, or ends. In which order they run is the caller's choice (`Order`), and changes nothing in
// a right kernel: a missing barrier shows as another result. Shared memory begins as NaN and has guards behind it. What
// cannot be right, such as a barrier that some threads never reach, is an error that names it.

#include <cmath>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <tuple>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __device__
#define __restrict__
#define KERNEL static void
#define SHARED(type, name) type &name = machine.shared<type>(__COUNTER__)

struct Dim {
    unsigned x;
};

static thread_local Dim threadIdx, blockIdx, blockDim, gridDim;

enum Order { FORWARD, REVERSE, SHUFFLED };

struct Fibre {
    ucontext_t begin;
    jmp_buf resume;
    std::vector<char> stack = std::vector<char>(64 << 10);
    bool begun = false;
    // Of the thread that it runs.
    unsigned thread;
    enum { FREE, READY, AT_BARRIER, IN_SHUFFLE } state = FREE;
};

class Machine {
    static constexpr unsigned WIDTH = 32;
    static constexpr size_t GUARD = 256;
    static constexpr unsigned char POISON = 0xff; // NaN as float and as double

    struct Room {
        int key;
        size_t size;
        std::vector<unsigned char> bytes;
    };

    std::vector<Fibre *> fibres, of_thread;
    Fibre *current = nullptr;
    jmp_buf scheduler;
    ucontext_t home;
    std::vector<Room *> rooms;
    std::vector<uint64_t> exchanged; // by shuffles: what each thread gives
    std::vector<unsigned> order;
    void (*body)(void **) = nullptr;
    void **arguments = nullptr;
    const char *wrong = nullptr;
    uint64_t random = 1;

    static void enter() { instance()->live(); }

    // What a fibre does: one thread of a block after the other.
    void live() {
        for (;;) {
            body(arguments);
            current->state = Fibre::FREE;
            pause();
        }
    }

    void pause() {
        Fibre *fibre = current;
        if (!_setjmp(fibre->resume)) _longjmp(scheduler, 1);
    }

    void wait(int state) {
        current->state = static_cast<decltype(Fibre::state)>(state);
        pause();
    }

    // Runs a fibre until it pauses.
    void run(Fibre *fibre) {
        current = fibre;
        threadIdx.x = fibre->thread;
        if (_setjmp(scheduler)) return;
        if (fibre->begun) _longjmp(fibre->resume, 1);
        fibre->begun = true;
        getcontext(&fibre->begin);
        fibre->begin.uc_stack.ss_sp = fibre->stack.data();
        fibre->begin.uc_stack.ss_size = fibre->stack.size();
        fibre->begin.uc_link = &home;
        makecontext(&fibre->begin, enter, 0);
        setcontext(&fibre->begin);
    }

    Fibre *idle() {
        for (Fibre *fibre : fibres) {
            if (fibre->state == Fibre::FREE) return fibre;
        }
        fibres.push_back(new Fibre);
        return fibres.back();
    }

    void arrange(unsigned count, Order how) {
        order.resize(count);
        std::iota(order.begin(), order.end(), 0u);
        for (unsigned i = 0; i < count; i++) {
            if (how == REVERSE) order[i] = count - 1 - i;
            if (how == SHUFFLED) {
                random = random * 6364136223846793005u + 1442695040888963407u;
                std::swap(order[i], order[(random >> 33) % (i + 1)]);
            }
        }
    }

    void block(unsigned threads, Order how) {
        for (Room *room : rooms) delete room;
        rooms.clear();
        arrange(threads, how);
        exchanged.assign(threads, 0);
        of_thread.assign(threads, nullptr);
        // A thread that never waits leaves its fibre to the next one.
        for (unsigned thread : order) {
            Fibre *fibre = idle();
            fibre->thread = thread;
            fibre->state = Fibre::READY;
            run(fibre);
            of_thread[thread] = fibre->state == Fibre::FREE ? nullptr : fibre;
        }
        while (release(threads)) {
            for (unsigned thread : order) {
                Fibre *fibre = of_thread[thread];
                if (!fibre || fibre->state != Fibre::READY) continue;
                run(fibre);
                if (fibre->state == Fibre::FREE) of_thread[thread] = nullptr;
            }
        }
        for (Room *room : rooms) {
            for (size_t i = room->size; i < room->bytes.size(); i++) {
                if (room->bytes[i] != POISON) wrong = "a kernel wrote behind its shared memory";
            }
        }
    }

    // Lets those go on for whom all have arrived; false at the end of the block.
    bool release(unsigned threads) {
        unsigned living = 0, waiting = 0, released = 0;
        for (Fibre *fibre : of_thread) {
            living += fibre != nullptr;
            waiting += fibre && fibre->state == Fibre::AT_BARRIER;
        }
        if (living == 0) return false;
        for (unsigned warp = 0; warp < threads; warp += WIDTH) {
            unsigned here = 0, last = warp + WIDTH < threads ? warp + WIDTH : threads;
            for (unsigned i = warp; i < last; i++) here += of_thread[i] && of_thread[i]->state == Fibre::IN_SHUFFLE;
            if (here < last - warp) continue;
            for (unsigned i = warp; i < last; i++) of_thread[i]->state = Fibre::READY;
            released += here;
        }
        if (released == 0 && waiting == threads) {
            for (Fibre *fibre : of_thread) fibre->state = Fibre::READY;
            released = waiting;
        }
        if (released == 0) {
            wrong = "a barrier or a shuffle that not all threads reach";
            // they are lost in the middle of a kernel
            for (Fibre *&fibre : of_thread) {
                if (!fibre) continue;
                for (Fibre *&of_all : fibres) {
                    if (of_all == fibre) of_all = new Fibre;
                }
                delete fibre;
                fibre = nullptr;
            }
            return false;
        }
        return true;
    }

public:
    static Machine *instance() {
        static thread_local Machine machine;
        return &machine;
    }

    void barrier() { wait(Fibre::AT_BARRIER); }

    template <class T> T shuffle_xor(T x, unsigned apart) {
        unsigned thread = threadIdx.x, other = thread ^ apart;
        uint64_t given = 0;
        memcpy(&given, &x, sizeof x);
        exchanged[thread] = given;
        wait(Fibre::IN_SHUFFLE);
        T got;
        memcpy(&got, &exchanged[other], sizeof got);
        wait(Fibre::IN_SHUFFLE); // all have read before one gives again
        return got;
    }

    template <class T> T &shared(int key) {
        for (Room *room : rooms) {
            if (room->key == key) return *reinterpret_cast<T *>(room->bytes.data());
        }
        rooms.push_back(new Room{key, sizeof(T), std::vector<unsigned char>(sizeof(T) + GUARD, POISON)});
        return *reinterpret_cast<T *>(rooms.back()->bytes.data());
    }

    const char *launch(void (*kernel)(void **), unsigned grid, unsigned threads, Order how, void **with) {
        body = kernel;
        arguments = with;
        wrong = nullptr;
        blockDim.x = threads;
        gridDim.x = grid;
        for (unsigned i = 0; i < grid && !wrong; i++) {
            blockIdx.x = how == REVERSE ? grid - 1 - i : i;
            block(threads, how);
        }
        return wrong;
    }
};

#define machine (*Machine::instance())

static inline void __syncthreads() { machine.barrier(); }

template <class T> static inline T __shfl_xor_sync(unsigned, T x, unsigned apart) {
    return machine.shuffle_xor(x, apart);
}

static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }

template <class... A, size_t... I>
static void call(void (*kernel)(A...), void **arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<A> *>(arguments[I])...);
}

template <class... A> static void call(void (*kernel)(A...), void **arguments) {
    call(kernel, arguments, std::index_sequence_for<A...>());
}

struct Entry_ {
    const char *name;
    unsigned arguments;
    void (*run)(void **);
};

template <class... A> static constexpr unsigned count(void (*)(A...)) { return sizeof...(A); }

#define ENTRY(kernel) {#kernel, count(kernel), [](void **arguments) { call(kernel, arguments); }},
