#include "pipeline/run_directory.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include "base/csv.hpp"
#include "base/sha256.hpp"
#include "pipeline/times.hpp"

namespace biophony {

std::string now() {
    return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}",
                       fmt::gmtime(std::chrono::system_clock::to_time_t(std::chrono::system_clock::now())));
}

RunLog::RunLog(const fs::path& file) : out_(file, std::ios::trunc) {
    if (!out_) throw Error(Code::kRunFailed, "can't write", {.file = file.string()});
}

void RunLog::line(std::string_view node, std::string_view event, std::string_view text) {
    out_ << Json{{"time", now()}, {"node", node}, {"event", event}, {"text", text}}.dump(-1, ' ', false,
                                                                                         Json::error_handler_t::replace)
         << std::endl;
}

void expose(const StoredResult& result, const fs::path& target) {
    fs::remove_all(target);
    fs::create_directories(target);
    for (const Json& file : result.record.at("files")) {
        const fs::path from = result.folder / file.at("name").get<std::string>(),
                       to = target / file.at("name").get<std::string>();
        fs::create_directories(to.parent_path());
        std::error_code problem;
        fs::create_hard_link(from, to, problem);
        if (problem) fs::copy_file(from, to);
    }
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
