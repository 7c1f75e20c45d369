// Sound files in folders whose names are the labels.
#include <algorithm>
#include <cctype>
#include <filesystem>
#include <optional>
#include <regex>
#include <set>

#include "biophony/dataset.hpp"

namespace {

namespace fs = std::filesystem;
using namespace biophony::sdk;

std::string lower(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
    return text;
}

std::string joined(const std::vector<std::string>& words) {
    std::string out;
    for (const auto& word : words) out += (out.empty() ? "" : ", ") + word;
    return out;
}

class Folder : public Dataset {
public:
    explicit Folder(const Params& params)
        : root_(params.at("root").get<std::string>()),
          label_from_parent_(params.at("label_from") == "parent"),
          licence_(params.at("licence").get<std::string>()) {
        for (std::string extension : params.at("extensions"))
            extensions_.push_back("." + lower(extension.starts_with('.') ? extension.substr(1) : extension));
        if (params.contains("labels")) labels_ = params.at("labels").get<std::vector<std::string>>();
        if (params.contains("recording_pattern")) {
            const std::string pattern = params.at("recording_pattern");
            try {
                recording_pattern_ = std::regex(pattern);
            } catch (const std::regex_error& error) {
                throw Error("found '" + pattern + "', expected a regular expression (ECMAScript): " + error.what(),
                            BPH_INVALID_ARGUMENT, "recording_pattern");
            }
            if (recording_pattern_->mark_count() != 1)
                throw Error("found " + std::to_string(recording_pattern_->mark_count()) + " groups in '" + pattern +
                                "', expected one, which names the recording: \"^(.+)_[0-9]+\"",
                            BPH_INVALID_ARGUMENT, "recording_pattern");
        }
    }

    void describe(const Call& call, DatasetSink& sink) override {
        if (!fs::is_directory(root_))
            throw Error("found '" + root_.string() + "', expected a folder", BPH_NOT_FOUND, "root");
        std::vector<std::string> files;
        std::vector<fs::path> parents;
        collect(call, root_, "", parents, files);
        std::sort(files.begin(), files.end());

        size_t without_label = 0, added = 0;
        std::set<std::string> seen;
        for (const std::string& file : files) {
            const std::optional<std::string> label = label_of(file);
            if (!label) {
                ++without_label;
                continue;
            }
            seen.insert(*label);
            if (!labels_.empty() && std::find(labels_.begin(), labels_.end(), *label) == labels_.end()) continue;
            Recording recording;
            recording.id = file;
            recording.uri = (root_ / file).string();
            recording.licence = licence_;
            if (recording_pattern_) recording.groups = {{"recording", recording_name(file)}};
            Region region;
            region.recording = sink.add(recording);
            region.labels = {{*label}};
            sink.add(region);
            ++added;
        }
        if (files.empty())
            throw Error("no sound file lies below '" + root_.string() + "'; looked for files ending in " +
                            joined(extensions_) + " in its folders",
                        BPH_NOT_FOUND, "root");
        for (const std::string& wanted : labels_)
            if (!seen.contains(wanted))
                throw Error("no file has the label '" + wanted +
                                "'; there are: " + joined(std::vector<std::string>(seen.begin(), seen.end())),
                            BPH_NOT_FOUND, "labels");
        if (added == 0)
            throw Error("the " + std::to_string(files.size()) + " sound files lie in '" + root_.string() +
                            "' itself, so none has a label; expected folders named after labels",
                        BPH_INVALID_ARGUMENT, "root");
        if (without_label > 0)
            call.log(std::to_string(without_label) + " files lie in '" + root_.string() +
                         "' itself and have no label; they are left out",
                     BPH_LOG_WARNING);
    }

private:
    /// Adds the files below `folder` by their paths relative to the root, with '/'. Follows links, but not in circles.
    void collect(const Call& call, const fs::path& folder, const std::string& prefix, std::vector<fs::path>& parents,
                 std::vector<std::string>& files) {
        call.check_cancelled();
        std::error_code error;
        const fs::path real = fs::canonical(folder, error);
        if (error || std::find(parents.begin(), parents.end(), real) != parents.end()) return;
        parents.push_back(real);
        fs::directory_iterator entries(folder, error);
        if (error) throw Error("can't list '" + folder.string() + "': " + error.message(), BPH_IO, "root");
        for (const fs::directory_entry& entry : entries) {
            const std::string name = entry.path().filename().string();
            if (name.starts_with('.')) continue;
            std::error_code ignored;
            if (entry.is_directory(ignored))
                collect(call, entry.path(), prefix + name + "/", parents, files);
            else if (entry.is_regular_file(ignored) && has_extension(name))
                files.push_back(prefix + name);
        }
        parents.pop_back();
    }

    bool has_extension(const std::string& name) const {
        const std::string small = lower(name);
        return std::any_of(extensions_.begin(), extensions_.end(), [&](const auto& e) { return small.ends_with(e); });
    }

    std::optional<std::string> label_of(const std::string& file) const {
        const size_t last = file.rfind('/');
        if (last == std::string::npos) return {};
        if (!label_from_parent_) return file.substr(0, file.find('/'));
        const size_t before = last == 0 ? std::string::npos : file.rfind('/', last - 1);
        return file.substr(before == std::string::npos ? 0 : before + 1,
                           last - (before == std::string::npos ? 0 : before + 1));
    }

    std::string recording_name(const std::string& file) const {
        const std::string name = file.substr(file.rfind('/') + 1);
        std::smatch match;
        if (!std::regex_search(name, match, *recording_pattern_) || match[1].length() == 0)
            throw Error("it names no recording in the file name '" + file + "'", BPH_INVALID_ARGUMENT,
                        "recording_pattern");
        return match[1].str();
    }

    fs::path root_;
    bool label_from_parent_;
    std::string licence_;
    std::vector<std::string> extensions_;
    std::vector<std::string> labels_;
    std::optional<std::regex> recording_pattern_;
};

}  // namespace

BIOPHONY_PLUGIN(dataset<Folder>("folder"))
