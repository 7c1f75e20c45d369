#include "plugins/probe.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <mutex>

#include "base/files.hpp"
#include "base/sha256.hpp"
#include "plugins/library.hpp"

namespace biophony {

namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr size_t kMostOutput = 64 << 10;
constexpr unsigned kCpuSeconds = 20;
constexpr rlim_t kMostMemory = rlim_t{8} << 30;  // private writable memory; LibTorch needs a fraction of it

ProbeOptions probe_options;

/// Identity of the program that probes: its executable, this library, and the torch library beside it.
std::string host_build() {
    static std::mutex mutex;
    static std::map<fs::path, std::string> known;
    const std::lock_guard lock(mutex);
    std::string& build = known[probe_options.executable];
    if (build.empty()) {
        std::string hashes = sha256_of_library(probe_options.executable);
        Dl_info self{};
        if (::dladdr(reinterpret_cast<const void*>(&probe_main), &self) != 0 && self.dli_fname != nullptr) {
            const fs::path library = self.dli_fname;
            for (const fs::path& path : {library, library.parent_path() / "libbiophony-torch.so"})
                if (fs::is_regular_file(path)) hashes += sha256_of_library(path);
        }
        build = sha256_hex(hashes).substr(0, 16);
    }
    return build;
}

struct Answer {
    PluginState state = PluginState::kOk;
    std::string reason;
};

/// The states that a probe may end in, by the names of to_string().
std::optional<PluginState> state_of(const std::string& name) {
    for (const PluginState state :
         {PluginState::kOk, PluginState::kNotAPlugin, PluginState::kBadManifest, PluginState::kIncompatible,
          PluginState::kMissingDependency, PluginState::kTimedOut})
        if (to_string(state) == name) return state;
    return std::nullopt;
}

/// {"ok": true}, or {"state": "incompatible", "error": "…"}; nothing where it is anything else.
std::optional<Answer> parse_answer(const std::string& text) {
    const Json json = Json::parse(text, nullptr, false);
    if (!json.is_object()) return std::nullopt;
    if (json.value("ok", Json()) == true) return Answer{};
    const Json state = json.value("state", Json()), error = json.value("error", Json());
    if (!state.is_string() || !error.is_string()) return std::nullopt;
    const std::optional<PluginState> known = state_of(state.get<std::string>());
    if (!known || *known == PluginState::kOk) return std::nullopt;
    return Answer{*known, error.get<std::string>()};
}

std::string to_text(const Answer& answer) {
    const Json json = answer.state == PluginState::kOk
                          ? Json{{"ok", true}}
                          : Json{{"state", to_string(answer.state)}, {"error", answer.reason}};
    return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string signal_name(int number) {
    const char* name = ::sigabbrev_np(number);
    return name == nullptr ? fmt::format("signal {}", number) : fmt::format("SIG{}", name);
}

/// " (std::bad_alloc)": the last line that it wrote, fit to be shown, or nothing.
std::string last_line(const std::string& text) {
    std::string_view rest = text;
    while (!rest.empty() && std::isspace(static_cast<unsigned char>(rest.back())) != 0) rest.remove_suffix(1);
    rest = rest.substr(rest.find_last_of('\n') + 1);
    if (rest.empty()) return {};
    std::string line(rest.substr(0, 300));
    for (char& c : line)
        if (std::iscntrl(static_cast<unsigned char>(c)) != 0) c = ' ';
    const Json safe = Json::parse(Json(line).dump(-1, ' ', false, Json::error_handler_t::replace));
    return fmt::format(": {}", safe.get<std::string>());
}

class Pipe {
public:
    Pipe() {
        if (::pipe2(ends_.data(), O_CLOEXEC) != 0)
            throw Error(Code::kRunFailed, fmt::format("can't make a pipe: {}", std::strerror(errno)));
        ::fcntl(ends_[0], F_SETFL, O_NONBLOCK);
    }
    ~Pipe() {
        ::close(ends_[0]);
        close_writer();
    }
    Pipe(const Pipe&) = delete;
    Pipe& operator=(const Pipe&) = delete;
    int reader() const { return ends_[0]; }
    int writer() const { return ends_[1]; }
    void close_writer() {
        if (ends_[1] >= 0) ::close(ends_[1]);
        ends_[1] = -1;
    }
    /// Takes what is there; more than the most is thrown away. True while more may come.
    bool drain() {
        std::array<char, 4096> buffer;
        for (;;) {
            const ssize_t got = ::read(ends_[0], buffer.data(), buffer.size());
            if (got < 0 && errno == EINTR) continue;
            if (got < 0) return errno == EAGAIN;
            if (got == 0) return false;
            // What counts stands at the end of what was written.
            text_.append(buffer.data(), static_cast<size_t>(got));
            if (text_.size() > kMostOutput) text_.erase(0, text_.size() - kMostOutput);
        }
    }
    const std::string& text() const { return text_; }

private:
    std::array<int, 2> ends_{-1, -1};
    std::string text_;
};

pid_t spawn(const fs::path& file, const Pipe& out, const Pipe& err) {
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawnattr_init(&attributes);
    ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    ::posix_spawn_file_actions_adddup2(&actions, out.writer(), 1);
    ::posix_spawn_file_actions_adddup2(&actions, err.writer(), 2);
    sigset_t none, all;
    ::sigemptyset(&none);
    ::sigfillset(&all);
    ::posix_spawnattr_setsigmask(&attributes, &none);
    ::posix_spawnattr_setsigdefault(&attributes, &all);
    ::posix_spawnattr_setpgroup(&attributes, 0);  // so that its own children end with it
    ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    std::string name = "biophony", command = "probe", path = file.string();
    std::array<char*, 4> arguments = {name.data(), command.data(), path.data(), nullptr};
    pid_t child = 0;
    const int problem =
        ::posix_spawn(&child, probe_options.executable.c_str(), &actions, &attributes, arguments.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    ::posix_spawnattr_destroy(&attributes);
    if (problem != 0)
        throw Error(Code::kRunFailed,
                    fmt::format("can't start the process that looks at plugins: {}", std::strerror(problem)),
                    {.file = probe_options.executable.string()});
    return child;
}

Answer ask_child(const fs::path& file) {
    Pipe out, err;
    const pid_t child = spawn(file, out, err);
    out.close_writer();
    err.close_writer();
    const auto deadline = Clock::now() + std::chrono::duration<double>(probe_options.seconds);
    bool out_open = true, err_open = true, timed_out = false;
    siginfo_t ended{};
    for (;;) {
        std::array<pollfd, 2> waiting = {pollfd{out_open ? out.reader() : -1, POLLIN, 0},
                                         pollfd{err_open ? err.reader() : -1, POLLIN, 0}};
        ::poll(waiting.data(), waiting.size(), out_open || err_open ? 20 : 1);
        if (out_open) out_open = out.drain();
        if (err_open) err_open = err.drain();
        ended.si_pid = 0;
        if (::waitid(P_PID, static_cast<id_t>(child), &ended, WEXITED | WNOHANG | WNOWAIT) == 0 &&
            ended.si_pid == child)
            break;
        if (Clock::now() > deadline) {
            timed_out = true;
            break;
        }
    }
    // The whole group, before the child is reaped and its number is free for others.
    ::kill(-child, SIGKILL);
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    out.drain();
    err.drain();
    if (timed_out || (WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU))
        return {PluginState::kTimedOut,
                fmt::format("loading it didn't end within {} s{}", probe_options.seconds, last_line(err.text()))};
    if (WIFSIGNALED(status))
        return {PluginState::kCrashed, fmt::format("loading it ends the process with {}{}",
                                                   signal_name(WTERMSIG(status)), last_line(err.text()))};
    if (const std::optional<Answer> answer = parse_answer(out.text())) return *answer;
    return {PluginState::kCrashed,
            fmt::format("loading it ends the process with status {}{}", WEXITSTATUS(status), last_line(err.text()))};
}

/// What was kept, where it can still be believed.
std::optional<Answer> read_cache(const fs::path& path) {
    std::error_code problem;
    const auto written = fs::last_write_time(path, problem);
    if (problem) return std::nullopt;
    try {
        const std::optional<Answer> answer = parse_answer(read_file(path));
        const auto age = fs::file_time_type::clock::now() - written;
        if (answer && answer->state == PluginState::kTimedOut && (age > 1h || age < 0s)) return std::nullopt;
        return answer;
    } catch (const Error&) {
        return std::nullopt;
    }
}

/// The cache is a convenience: a full or read-only disk doesn't stop anything.
void write_cache(const fs::path& path, const Answer& answer) {
    try {
        write_file_atomically(path, to_text(answer));
        std::error_code ignored;
        for (const auto& entry : fs::directory_iterator(path.parent_path(), ignored))
            if (fs::file_time_type::clock::now() - entry.last_write_time(ignored) > 24h * 60)
                fs::remove(entry.path(), ignored);
    } catch (const std::exception&) {
    }
}

void limit_this_process() {
    for (const int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGALRM, SIGXCPU}) ::signal(number, SIG_DFL);
    ::alarm(kCpuSeconds * 2);  // ends it even where whoever started it is gone
    const auto limit = [](auto resource, rlim_t most) {
        rlimit now{};
        if (::getrlimit(resource, &now) != 0) return;
        now.rlim_cur = now.rlim_max == RLIM_INFINITY ? most : std::min(most, now.rlim_max);
        ::setrlimit(resource, &now);
    };
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_CPU, kCpuSeconds);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    limit(RLIMIT_DATA, kMostMemory);  // sanitizers map terabytes
#endif
}

Answer examine(const fs::path& path) {
    const PluginFile file = read_library_file(path);
    if (file.state != PluginState::kOk) return {file.state, file.reason};
    try {
        const bph_plugin* plugin = load_library(file);
        for (const ItemInfo& item : file.items) {
            item_table(plugin, item);
            check_answers(plugin, item);
        }
        return {};
    } catch (const Refused& refused) {
        return {refused.state, refused.reason};
    }
}

}  // namespace

void set_probe_options(const ProbeOptions& options) {
    probe_options = options;
}

void probe(PluginFile& file) {
    const fs::path kept = cache_folder() / "probe" / fmt::format("{}-{}.json", file.sha256, host_build());
    std::optional<Answer> answer = read_cache(kept);
    if (!answer) {
        answer = ask_child(file.path);
        if (answer->state == PluginState::kOk || answer->state == PluginState::kTimedOut) write_cache(kept, *answer);
    }
    if (answer->state == PluginState::kOk) return;
    file.state = answer->state;
    file.reason = answer->reason;
}

int probe_main(const fs::path& file) {
    // What the library prints goes to standard error, so that the answer stands alone.
    const int answer_to = ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    ::dup2(STDERR_FILENO, STDOUT_FILENO);
    limit_this_process();
    const Answer answer = examine(fs::absolute(file));
    const std::string text = to_text(answer);
    for (size_t done = 0; done < text.size();) {
        const ssize_t put = ::write(answer_to, text.data() + done, text.size() - done);
        if (put < 0 && errno != EINTR) break;
        if (put > 0) done += static_cast<size_t>(put);
    }
    // A destructor that crashes now is not this probe's matter: the host never runs one.
    ::_exit(answer.state == PluginState::kOk ? 0 : static_cast<int>(Code::kPlugin));
}

}  // namespace biophony
