#include "pipeline/run_directory.hpp"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/csv.hpp"
#include "base/sha256.hpp"
#include "pipeline/times.hpp"

namespace biophony {

std::string now() {
    return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}",
                       fmt::gmtime(std::chrono::system_clock::to_time_t(std::chrono::system_clock::now())));
}

namespace {

constexpr const char* kMarker = "biophony-run.txt";
constexpr const char* kLock = "run.lock";

/// Whether `target` holds hard links to the result's files and nothing else.
bool is_exposed(const StoredResult& result, const fs::path& target) {
    std::error_code problem;
    size_t there = 0;
    for (fs::recursive_directory_iterator at(target, problem), end; !problem && at != end; at.increment(problem))
        there += at->is_directory(problem) ? 0 : 1;
    const Json& files = result.record.at("files");
    return !problem && there == files.size() && std::all_of(files.begin(), files.end(), [&](const Json& file) {
        const std::string& name = file.at("name").get_ref<const std::string&>();
        struct stat from {
        }, to{};
        return ::stat((result.folder / name).c_str(), &from) == 0 && ::stat((target / name).c_str(), &to) == 0 &&
               from.st_ino == to.st_ino && from.st_dev == to.st_dev;
    });
}

}  // namespace

fs::path open_run_directory(const fs::path& folder) {
    std::error_code problem;
    fs::create_directories(folder, problem);
    if (problem) {
        errno = problem.value();
        throw_errno("make the run directory", folder);
    }
    const fs::path out = fs::canonical(folder);
    if (!fs::is_empty(out) && !fs::exists(out / kMarker) && !fs::exists(out / kLock))
        throw Error(
            Code::kInvalid,
            fmt::format(
                "the folder is not empty, and no earlier run made it (it lacks the file '{}'); choose another --out",
                kMarker),
            {.file = out.string()});
    return out;
}

void mark_run_directory(const fs::path& folder) {
    write_file_atomically(folder / kMarker,
                          "A biophony run directory; docs/formats/run-directory.md says what is in it.\n");
}

RunLock::RunLock(const fs::path& folder) {
    const fs::path file = folder / kLock;
    fd_ = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd_ < 0) throw_errno("write", file);
    if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
        const bool taken = errno == EWOULDBLOCK;
        char text[32] = {};
        const ssize_t got = taken ? ::pread(fd_, text, sizeof text - 1, 0) : 0;
        if (taken) {
            ::close(fd_);
            throw Error(Code::kInvalid,
                        fmt::format("another run (process {}) writes to this folder; wait for it, or choose another "
                                    "--out",
                                    got > 0 ? std::string(text, static_cast<size_t>(got)) : "?"),
                        {.file = folder.string()});
        }
        return;  // a file system without locks
    }
    const std::string process = std::to_string(::getpid());
    if (::ftruncate(fd_, 0) != 0 || ::pwrite(fd_, process.data(), process.size(), 0) < 0) {
        // Who holds it is only told.
    }
}

RunLock::~RunLock() {
    ::close(fd_);
}

void RunLog::open(const fs::path& file) {
    file_ = file;
    out_.open(file, std::ios::trunc);
    if (!out_) throw_errno("write", file);
    out_ << before_ << std::flush;
    if (!out_) throw_errno("write", file);
    before_.clear();
}

void RunLog::line(std::string_view node, std::string_view event, std::string_view text, const std::string& time) {
    const std::string text_of_line = Json{{"time", time}, {"node", node}, {"event", event}, {"text", text}}.dump(
                                         -1, ' ', false, Json::error_handler_t::replace) +
                                     "\n";
    if (!out_.is_open()) {
        before_ += text_of_line;
        return;
    }
    out_ << text_of_line << std::flush;
    if (!out_ && problem_ == 0) problem_ = errno == 0 ? EIO : errno;
}

void RunLog::check() const {
    if (problem_ == 0) return;
    errno = problem_;
    throw_errno("write", file_);
}

void expose(const StoredResult& result, const fs::path& target) {
    if (is_exposed(result, target)) return;
    const fs::path parent = target.parent_path(), made = parent / (".new~" + unique_name()),
                   old = parent / (".old~" + unique_name());
    std::error_code ignored;
    try {
        fs::create_directories(made);
        for (const Json& file : result.record.at("files")) {
            const fs::path from = result.folder / file.at("name").get<std::string>(),
                           to = made / file.at("name").get<std::string>();
            fs::create_directories(to.parent_path());
            std::error_code problem;
            fs::create_hard_link(from, to, problem);
            if (problem) fs::copy_file(from, to);
        }
        if (::rename(target.c_str(), old.c_str()) != 0 && errno != ENOENT) throw_errno("move away", target);
        if (::rename(made.c_str(), target.c_str()) != 0) throw_errno("show a result as", target);
    } catch (const fs::filesystem_error& error) {
        fs::remove_all(made, ignored);
        errno = error.code().value();
        throw_errno("show a result as", target);
    } catch (...) {
        fs::remove_all(made, ignored);
        throw;
    }
    fs::remove_all(old, ignored);
}

void add_metrics(const std::string& node, const Json& metrics, Json& all, std::string& rows) {
    all[node] = metrics;
    auto figures = [&](const std::string& group, const Json& entry) {
        for (const char* scope : {"within", "union"})
            for (const auto& [name, value] : entry.at(scope).items())
                rows += fmt::format("{},{},{}_{},{}\n", csv_field(node), csv_field(group), scope, name,
                                    value.is_null() ? std::string() : value.dump());
        rows += fmt::format("{},{},clips,{}\n", csv_field(node), csv_field(group), entry.at("clips").dump());
    };
    for (const auto& [group, entry] : metrics.at("groups").items()) figures(group, entry);
    figures("all", metrics.at("all"));
}

std::string folder_name(const std::string& id) {
    std::string out;
    for (const char c : id) {
        if (c == '/' || c == '%' || (c == '.' && out.empty()))
            out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
        else
            out += c;
    }
    constexpr size_t kLongest = 200;
    return out.size() <= kLongest ? out : out.substr(0, kLongest - 18) + "~" + sha256_hex(id).substr(0, 16);
}

}  // namespace biophony
