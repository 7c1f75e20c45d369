// What is said when the process dies of a signal. Everything below the handler is async-signal-safe: no allocation, no
// lock, no formatting library, nothing but write and _exit.
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <memory>

#include "plugins/call.hpp"

namespace biophony {

namespace {

/// The contexts that live, in any thread. One that finds no free slot isn't told.
struct alignas(64) Slot {
    std::atomic<const char*> plugin{nullptr};  ///< null = free
    std::atomic<const char*> node{nullptr};
    std::atomic<pid_t> thread{0};
    std::atomic<uint64_t> order{0};
};
std::array<Slot, 128> slots;
std::atomic<uint64_t> contexts{0};

pid_t this_thread() {
    return static_cast<pid_t>(::syscall(SYS_gettid));
}

constexpr size_t kLongestName = 200;

/// Whole UTF-8 characters only.
template <size_t N>
void copy_cut(char (&to)[N], std::string_view from) {
    static_assert(N > kLongestName);
    size_t size = std::min(from.size(), kLongestName);
    if (size < from.size())
        while (size > 0 && (static_cast<unsigned char>(from[size]) & 0xc0) == 0x80) --size;
    std::memset(to, 0, N);
    if (size > 0) std::memcpy(to, from.data(), size);  // an empty text may have no address
}

/// A stack that overflowed can't run its own handler; each thread needs another.
class HandlerStack {
public:
    HandlerStack() {
        stack_t now{};
        if (::sigaltstack(nullptr, &now) != 0 || (now.ss_flags & SS_DISABLE) == 0) return;
        memory_ = std::make_unique<char[]>(kBytes);
        stack_t own{};
        own.ss_sp = memory_.get();
        own.ss_size = kBytes;
        if (::sigaltstack(&own, nullptr) != 0) memory_.reset();
    }
    ~HandlerStack() {
        if (memory_ == nullptr) return;
        stack_t off{};
        off.ss_flags = SS_DISABLE;
        ::sigaltstack(&off, nullptr);
    }
    HandlerStack(const HandlerStack&) = delete;
    HandlerStack& operator=(const HandlerStack&) = delete;

private:
    static constexpr size_t kBytes = 64 << 10;
    std::unique_ptr<char[]> memory_;
};
void need_handler_stack() {
    thread_local const HandlerStack stack;
    static_cast<void>(stack);
}

class Message {
public:
    void add(const char* text, size_t longest = 300) {
        for (size_t i = 0; i < longest && text[i] != '\0' && size_ < sizeof(text_); ++i) text_[size_++] = text[i];
    }
    void send() const {
        size_t done = 0;
        while (done < size_) {
            const ssize_t put = ::write(STDERR_FILENO, text_ + done, size_ - done);
            if (put <= 0) return;
            done += static_cast<size_t>(put);
        }
    }

private:
    char text_[1024];
    size_t size_ = 0;
};

const char* name_of(int number) {
    switch (number) {
        case SIGSEGV: return "SIGSEGV";
        case SIGBUS: return "SIGBUS";
        case SIGFPE: return "SIGFPE";
        case SIGILL: return "SIGILL";
        case SIGABRT: return "SIGABRT";
        default: return "a signal";
    }
}

void on_crash(int number) {
    // The innermost context of this thread that names a plugin, a node; a thread that has none was started by another's
    // call, so then the newest of all.
    const pid_t thread = this_thread();
    const bool own = std::any_of(slots.begin(), slots.end(), [thread](const Slot& slot) {
        return slot.plugin.load() != nullptr && slot.thread.load() == thread;
    });
    const char* plugin = nullptr;
    const char* node = nullptr;
    uint64_t plugin_order = 0, node_order = 0;
    bool any = false;
    for (const Slot& slot : slots) {
        const char* its_plugin = slot.plugin.load();
        const char* its_node = slot.node.load();
        const uint64_t order = slot.order.load();
        if (its_plugin == nullptr || its_node == nullptr || (own && slot.thread.load() != thread)) continue;
        any = true;
        if (its_plugin[0] != '\0' && order >= plugin_order) plugin = its_plugin, plugin_order = order;
        if (its_node[0] != '\0' && order >= node_order) node = its_node, node_order = order;
    }
    Message message;
    message.add("biophony: ");
    if (plugin != nullptr) {
        message.add("plugin ");
        message.add(plugin, kLongestName);
        message.add(" crashed (");
    } else {
        message.add("internal error (");
    }
    message.add(name_of(number));
    message.add(")");
    if (node != nullptr) {
        message.add(" in node '");
        message.add(node, kLongestName);
        message.add("'");
    }
    if (any) message.add("; finished results are intact");
    message.add("\n");
    message.send();
    ::_exit(static_cast<int>(Code::kInternal));
}

}  // namespace

CrashContext::CrashContext(std::string_view plugin, std::string_view node) {
    copy_cut(plugin_, plugin);
    copy_cut(node_, node);
    need_handler_stack();
    for (Slot& slot : slots) {
        const char* free = nullptr;
        if (!slot.plugin.compare_exchange_strong(free, plugin_)) continue;
        slot_ = &slot;
        slot.thread = this_thread();
        slot.order = ++contexts;
        slot.node = node_;
        return;
    }
}

CrashContext::~CrashContext() {
    if (slot_ == nullptr) return;
    Slot& slot = *static_cast<Slot*>(slot_);
    slot.node = nullptr;
    slot.thread = 0;
    slot.plugin = nullptr;
}

void CrashContext::enter(const char* plugin) {
    if (slot_ != nullptr) static_cast<Slot*>(slot_)->plugin.store(plugin, std::memory_order_relaxed);
}

void install_crash_handler() {
    need_handler_stack();
    struct sigaction action {};
    action.sa_handler = on_crash;
    ::sigemptyset(&action.sa_mask);
    action.sa_flags = SA_ONSTACK | static_cast<int>(SA_RESETHAND) | SA_NODEFER;
    for (const int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) ::sigaction(number, &action, nullptr);
}

}  // namespace biophony
