// A lab's own table in forty lines. Its columns: station; file; begin (seconds); species; sure (yes or no).
#include <biophony/dataset.hpp>

#include <charconv>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

using namespace biophony::sdk;

class LabTable : public Dataset {
public:
    explicit LabTable(const Params& params) : table_(params.at("table")), seconds_(params.at("call_seconds")) {}

    void describe(const Call& call, DatasetSink& sink) override {
        std::ifstream in(table_);
        if (!in) throw Error("can't read " + table_.string(), BPH_NOT_FOUND, "table");
        std::map<std::string, uint64_t> recordings;  // file → its index; a recording is added where it first occurs
        std::string line;
        std::getline(in, line);  // the names of the columns
        for (int number = 2; std::getline(in, line); ++number) {
            call.check_cancelled();
            std::istringstream fields(line);
            std::string station, file, begin, species, sure;
            for (std::string* field : {&station, &file, &begin, &species, &sure})
                if (!std::getline(fields, *field, ';')) fail(number, "found " + line + ", expected five fields");
            Region region{.labels = {{.name = species, .state = sure == "no" ? BPH_UNCERTAIN : BPH_PRESENT}}};
            const auto [end, problem] = std::from_chars(begin.data(), begin.data() + begin.size(), region.start_s);
            if (problem != std::errc() || end != begin.data() + begin.size())
                fail(number, "found " + begin + ", expected seconds");
            region.end_s = region.start_s + seconds_;
            if (!recordings.contains(file))
                recordings[file] = sink.add(Recording{.id = file,
                                                      .uri = (table_.parent_path() / file).string(),
                                                      .groups = {{"recording", file}, {"site", station}}});
            region.recording = recordings[file];
            sink.add(region);
        }
    }

private:
    void fail(int line, const std::string& why) const {
        throw Error(table_.string() + ":" + std::to_string(line) + ": " + why, BPH_INVALID_ARGUMENT, "table");
    }

    std::filesystem::path table_;
    double seconds_;
};

BIOPHONY_PLUGIN(dataset<LabTable>("labtable"))
