// Executing a node by starting the program again, behind a prefix that may put it on another machine.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <optional>

#include "base/files.hpp"
#include "pipeline/executor.hpp"
#include "pipeline/times.hpp"

namespace biophony {

namespace {

class Pipe {
public:
    Pipe() {
        if (::pipe2(ends_.data(), O_CLOEXEC) != 0) throw_errno("make a pipe for", "a launched program");
    }
    ~Pipe() {
        for (const int end : ends_)
            if (end >= 0) ::close(end);
    }
    Pipe(const Pipe&) = delete;
    Pipe& operator=(const Pipe&) = delete;
    int read_end() const { return ends_[0]; }
    int write_end() const { return ends_[1]; }
    void close_write_end() {
        ::close(ends_[1]);
        ends_[1] = -1;
    }

private:
    std::array<int, 2> ends_{-1, -1};
};

/// Hands out whole lines.
class Lines {
public:
    explicit Lines(std::function<void(std::string_view)> line) : line_(std::move(line)) {}
    void add(const char* data, size_t size) {
        rest_.append(data, size);
        for (size_t end = rest_.find('\n'); end != std::string::npos; end = rest_.find('\n')) {
            if (end > 0) line_(std::string_view(rest_).substr(0, end));
            rest_.erase(0, end + 1);
        }
    }
    void end() {
        if (!rest_.empty()) line_(rest_);
        rest_.clear();
    }

private:
    std::function<void(std::string_view)> line_;
    std::string rest_;
};

/// What the program was told to do, started. It is ended with the thread that started it.
class Child {
public:
    Child(const std::vector<std::string>& command, Pipe& out, Pipe& err) {
        std::vector<char*> arguments;
        for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
        arguments.push_back(nullptr);
        const pid_t parent = ::getpid();
        pid_ = ::fork();
        if (pid_ < 0) throw_errno("start", command.front());
        if (pid_ == 0) {
            // Between fork and exec only what is safe in a signal handler.
            ::setpgid(0, 0);
            ::prctl(PR_SET_PDEATHSIG, SIGTERM);
            if (::getppid() != parent) ::_exit(127);
            ::signal(SIGPIPE, SIG_DFL);
            const int none = ::open("/dev/null", O_RDONLY);
            ::dup2(none, STDIN_FILENO);
            ::dup2(out.write_end(), STDOUT_FILENO);
            ::dup2(err.write_end(), STDERR_FILENO);
            ::execvp(arguments[0], arguments.data());
            const char* why = std::strerror(errno);
            static_cast<void>(!::write(STDERR_FILENO, "can't start it: ", 16));
            static_cast<void>(!::write(STDERR_FILENO, why, std::strlen(why)));
            static_cast<void>(!::write(STDERR_FILENO, "\n", 1));
            ::_exit(127);
        }
        ::setpgid(pid_, pid_);
        out.close_write_end();
        err.close_write_end();
    }
    ~Child() {
        if (pid_ <= 0) return;
        end(SIGKILL);
        wait();
    }
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;
    void end(int signal) const { ::kill(-pid_, signal); }
    bool has_ended() const {
        siginfo_t info{};
        return ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0;
    }
    int wait() {
        int status = 0;
        while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
        }
        pid_ = -1;
        return status;
    }

private:
    pid_t pid_ = -1;
};

std::vector<std::string> command_of(const Launch& launch, const Job& job) {
    std::vector<std::string> command = launch.prefix;
    for (const std::string& word :
         {launch.program.string(), std::string("run-node"), launch.pipeline.string(), job.node->id,
          std::string("--store"), launch.store.string(), std::string("--threads"), std::to_string(launch.threads)})
        command.push_back(word);
    std::error_code ignored;
    for (const fs::path& folder : launch.plugin_folders)
        if (fs::is_directory(folder, ignored)) {
            command.emplace_back("--plugin-path");
            command.push_back(folder.string());
        }
    for (const auto& [port, inputs] : job.inputs)
        for (const JobInput& input : inputs) {
            command.emplace_back("--given");
            command.push_back(fmt::format("{}={}", input.node, input.result->key));
        }
    // The schedule has looked: what gets here is to be made.
    command.emplace_back("--no-cache");
    return command;
}

Code code_of(int status) {
    return status >= 1 && status <= 5 ? static_cast<Code>(status) : Code::kRunFailed;
}

}  // namespace

StoredResult LaunchExecutor::execute(const Job& job) {
    Pipe out, err;
    Child child(command_of(launch_, job), out, err);
    std::string answer, said;
    Lines answers([&](std::string_view line) {
        if (line.starts_with('{')) answer = line;
    });
    // What the program says last is its error; it is told when it ends.
    Lines notes([&](std::string_view line) {
        if (line.starts_with("biophony: ")) {
            said = line.substr(10);
        } else if (!said.empty()) {
            said += fmt::format("\n{}", line);
        } else {
            if (const std::string own = job.node->id + ": "; line.starts_with(own)) line.remove_prefix(own.size());
            job.note(line);
        }
    });
    std::array<pollfd, 2> ends{{{out.read_end(), POLLIN, 0}, {err.read_end(), POLLIN, 0}}};
    std::optional<Clock::time_point> asked;
    std::optional<Clock::time_point> ended;
    bool forced = false;
    while (ends[0].fd >= 0 || ends[1].fd >= 0) {
        if (job.cancel != nullptr && job.cancel->requested()) {
            if (!asked) {
                asked = Clock::now();
                child.end(SIGTERM);
            } else if (!forced && since(*asked) > 1.2) {
                forced = true;
                child.end(SIGKILL);
            }
        }
        // What the program has started may outlive it and hold the pipes: its own words are there when it ends.
        if (!ended && child.has_ended()) ended = Clock::now();
        constexpr double kMostWords = 1;  // seconds
        if (ended && since(*ended) > kMostWords) break;
        if (::poll(ends.data(), ends.size(), ended ? 0 : 50) <= 0) {
            if (ended) break;
            continue;
        }
        for (pollfd& end : ends) {
            if (end.fd < 0 || end.revents == 0) continue;
            char buffer[4096];
            const ssize_t got = ::read(end.fd, buffer, sizeof buffer);
            if (got < 0 && errno == EINTR) continue;
            Lines& lines = &end == ends.data() ? answers : notes;
            if (got > 0) {
                lines.add(buffer, static_cast<size_t>(got));
            } else {
                lines.end();
                end.fd = -1;
            }
        }
    }
    answers.end();
    notes.end();
    const int status = child.wait();
    if (job.cancel != nullptr) job.cancel->check();
    if (WIFSIGNALED(status))
        throw Error(Code::kInternal, fmt::format("the launched program was ended by signal {} ({}){}", WTERMSIG(status),
                                                 ::strsignal(WTERMSIG(status)), said.empty() ? "" : "; " + said));
    // The schedule says the node again.
    if (const std::string where = Where{.node = job.node->id}.text() + ": "; said.find(where) != std::string::npos)
        said.erase(said.find(where), where.size());
    const int exit = WEXITSTATUS(status);
    if (exit != 0 && exit != kSkippedFilesStatus)
        throw Error(code_of(exit),
                    said.empty() ? fmt::format("the launched program ended with status {}", exit) : said);
    const Json told = Json::parse(answer, nullptr, false);
    const std::string key = told.is_object() ? told.value("key", std::string()) : std::string();
    if (key.empty())
        throw Error(Code::kRunFailed,
                    fmt::format("the launched program ended without telling the result's key on its standard output; "
                                "it said: {}",
                                answer.empty() ? "nothing" : answer));
    if (!job.key.empty() && key != job.key)
        throw Error(Code::kRunFailed,
                    fmt::format("the launched program made the key {}…, expected {}…; is it another build, or on "
                                "another class of machine?",
                                key.substr(0, 12), job.key.substr(0, 12)));
    std::optional<StoredResult> result = store_.wait_for(key, job.cancel);
    if (!result)
        throw Error(Code::kRunFailed,
                    fmt::format("the launched program made {}…, but it isn't in the store {}; does it see the same "
                                "folder?",
                                key.substr(0, 12), store_.root().string()));
    return *std::move(result);
}

}  // namespace biophony
