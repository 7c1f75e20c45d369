// The data-set plugins of the project, loaded as any other.
#include <set>

#include "audio/decode.hpp"
#include "sounds.hpp"

using namespace biophony;
using namespace biophony::test;
using Catch::Matchers::Contains;

namespace {

fs::path tone(const fs::path& path, double hz = 440) {
    return write_sound(path, SF_FORMAT_WAV | SF_FORMAT_PCM_16, 16000, 1, 16000,
                       [hz](int64_t n, int) { return sine(hz, 16000, static_cast<double>(n)); });
}

std::vector<std::string> ids(const DatasetSource::Description& d) {
    std::vector<std::string> out;
    for (const auto& r : d.recordings) out.push_back(r.id);
    return out;
}
std::vector<std::string> labels(const DatasetSource::Description& d) {
    std::vector<std::string> out;
    for (const auto& r : d.regions) out.push_back(r.labels.at(0).name);
    return out;
}
std::string group(const Recording& r, const std::string& key) {
    for (const auto& [name, value] : r.groups)
        if (name == key) return value;
    return "";
}
using Strings = std::vector<std::string>;

DatasetSource::Description from_table(const TempFolder& folder, std::string_view text, Json params = Json::object(),
                                      CallOptions options = {}) {
    params["file"] = write_text(folder / "table.csv", text).string();
    return describe("dataset:table", params, std::move(options));
}
std::string table_error(const TempFolder& folder, std::string_view text, const Json& params = Json::object()) {
    return error_of([&] { from_table(folder, text, params); });
}

}  // namespace

TEST_CASE("folders named after labels") {
    const TempFolder folder;
    for (const char* name : {"Hyla arborea/b_2.WAV", "Hyla arborea/b_1.wav", "Bufo bufo/night 1/ä.wav",
                             "Bufo bufo/night 1/.hidden.wav", ".git/x.wav", "loose.wav"})
        tone(folder / name);
    write_text(folder / "Bufo bufo/notes.txt", "x");
    write_text(folder / "Bufo bufo/night 1/ä.wav:Zone.Identifier", "x");
    fs::create_directory_symlink(folder.string(), folder / "Bufo bufo/circle");
    Strings log;
    CallOptions options;
    options.log = [&](int, std::string_view text) { log.emplace_back(text); };
    const Json root = {{"root", folder.string()}};

    auto d = describe("dataset:folder", root, options);
    CHECK(ids(d) == Strings{"Bufo bufo/night 1/ä.wav", "Hyla arborea/b_1.wav", "Hyla arborea/b_2.WAV"});
    CHECK(labels(d) == Strings{"Bufo bufo", "Hyla arborea", "Hyla arborea"});
    CHECK(d.recordings[1].uri == folder.string() + "/Hyla arborea/b_1.wav");
    CHECK(std::isnan(d.regions[0].end_s));
    REQUIRE(log.size() == 1);
    CHECK_THAT(log[0], Contains("1 files lie in") && Contains("have no label"));

    Json params = root;
    params["label_from"] = "parent";
    CHECK(labels(describe("dataset:folder", params)) == Strings{"night 1", "Hyla arborea", "Hyla arborea"});
    params = root;
    params["labels"] = {"Hyla arborea"};
    params["recording_pattern"] = "^(.+)_[0-9]+\\.";
    d = describe("dataset:folder", params);
    CHECK(d.recordings.size() == 2);
    CHECK(group(d.recordings[0], "recording") == "b");
    CHECK(group(d.recordings[1], "recording") == "b");

    const ItemInfo& item = plugins().require("dataset:folder");
    DatasetSource source(item, filled(item, root));
    const auto again = source.describe();
    CHECK(source.read(again.recordings[1], 1, 0.25, 0.75, 8000).size() == 4000);
    CHECK(ids(source.describe()) == ids(again));
}

TEST_CASE("folders that can't be used") {
    const TempFolder folder;
    const auto fault = [&](Json params) {
        params["root"] = params.value("root", folder.string());
        return error_of([&] { describe("dataset:folder", params); });
    };
    CHECK_THAT(fault(Json::object()),
               Contains("dataset:folder") && Contains("no sound file lies below") && Contains(".wav, .flac"));
    tone(folder / "loose.wav");
    CHECK_THAT(fault(Json::object()), Contains("none has a label"));
    tone(folder / "frog/a1.wav");
    CHECK_THAT(fault({{"root", folder.string() + "/nowhere"}}), Contains("'root'") && Contains("expected a folder"));
    CHECK_THAT(fault({{"labels", {"frog", "frgo"}}}),
               Contains("'labels'") && Contains("no file has the label 'frgo'; there are: frog"));
    CHECK_THAT(fault({{"recording_pattern", "("}}),
               Contains("'recording_pattern'") && Contains("expected a regular expression"));
    CHECK_THAT(fault({{"recording_pattern", "a+"}}), Contains("found 0 groups in 'a+', expected one"));
    CHECK_THAT(fault({{"recording_pattern", "^(b)"}}), Contains("names no recording in the file name 'frog/a1.wav'"));
    CHECK_THAT(fault({{"extensions", {".FLAC"}}}), Contains("files ending in .flac"));
}

TEST_CASE("a table with the default names") {
    const TempFolder folder;
    const auto d = from_table(folder,
                              "path,start_s,end_s,label,split,recording_id,licence\n"
                              "a.wav,0,1.5,frog,train,R1,CC0\n"
                              "a.wav,1.5,3e0,toad,train,R1,CC0\n"
                              "b/c.wav,,,frog,test,R2,\n");
    CHECK(ids(d) == Strings{"a.wav", "b/c.wav"});
    CHECK(labels(d) == Strings{"frog", "toad", "frog"});
    CHECK(d.recordings[0].uri == folder.string() + "/a.wav");
    CHECK(d.recordings[0].split == "train");
    CHECK(d.recordings[0].licence == "CC0");
    CHECK(group(d.recordings[1], "recording") == "R2");
    CHECK(d.regions[1].recording == 0);
    CHECK(d.regions[1].start_s == 1.5);
    CHECK(d.regions[1].end_s == 3);
    CHECK(d.regions[2].recording == 1);
    CHECK(d.regions[2].start_s == 0);
    CHECK(std::isnan(d.regions[2].end_s));
}

TEST_CASE("a table with names of its own") {
    const TempFolder folder;
    const Json columns = {{"path", "Begin File"}, {"label", "Species"},    {"start", "Begin Time (s)"},
                          {"duration", "Dur"},    {"channel", "Channel"},  {"low_hz", "Low"},
                          {"high_hz", "High"},    {"scientific", "Latin"}, {"site", "Site"},
                          {"individual", "Who"},  {"latitude", "Lat"},     {"start_time", "When"}};
    const std::string text =
        "\xef\xbb\xbfSpecies\tBegin File\tBegin Time "
        "(s)\tDur\tChannel\tLow\tHigh\tLatin\tSite\tWho\tLat\tWhen\tpath\r\n"
        "frog\tx.wav\t+1.0\t 0.5 \t2\t100\t2000.5\tRana\tpond\tA\t47.5\t2024-05-01\tnothing\r\n"
        "toad\tx.wav\t2\t0.5\t2\t\t\t\tpond\tB\t47.5\t2024-05-01\tnothing\r\n"
        "toad\tx.wav\t2\t0.5\t1\t\t\t\tpond\tB\t47.5\t2024-05-01\tnothing\r\n";
    const auto d = from_table(folder, text, {{"columns", columns}, {"root", "/sounds"}});
    REQUIRE(ids(d) == Strings{"x.wav#2", "x.wav#1"});
    CHECK(d.recordings[0].uri == "/sounds/x.wav");
    CHECK(d.recordings[0].channel == 1);
    CHECK(d.recordings[0].latitude == 47.5);
    CHECK(d.recordings[0].start_time == "2024-05-01");
    CHECK(group(d.recordings[0], "site") == "pond");
    CHECK(group(d.recordings[0], "individual").empty());  // its rows disagree
    CHECK(group(d.recordings[1], "individual") == "B");
    CHECK(d.regions[0].start_s == 1);
    CHECK(d.regions[0].end_s == 1.5);
    CHECK(d.regions[0].low_hz == 100);
    CHECK(d.regions[0].high_hz == 2000.5);
    REQUIRE(d.regions[0].labels.size() == 2);
    CHECK(d.regions[0].labels[0].name == "frog");
    CHECK(d.regions[0].labels[1].name == "Rana");
    CHECK(d.regions[0].labels[1].label_namespace == "scientific");
    CHECK(d.regions[1].labels.size() == 1);
}

TEST_CASE("a table's taxon ids stand beside the label") {
    const TempFolder folder;
    const auto d = from_table(
        folder, "path,label,g,e,i,s\na.wav,swallow,9515886,barswa,11901,Hirundo rustica\nb.wav,toad,,,65448,\n",
        {{"columns", {{"gbif", "g"}, {"ebird", "e"}, {"inaturalist", "i"}, {"scientific", "s"}}}});
    std::vector<Strings> found;
    for (const Region& region : d.regions) {
        found.emplace_back();
        for (const Label& label : region.labels) found.back().push_back(label.label_namespace + ":" + label.name);
    }
    CHECK(found == std::vector<Strings>{
                       {":swallow", "scientific:Hirundo rustica", "gbif:9515886", "ebird:barswa", "inaturalist:11901"},
                       {":toad", "inaturalist:65448"}});
}

TEST_CASE("rows are chosen by where and exclude_labels") {
    const TempFolder folder;
    const std::string text = "path;label;fold;group\na;x;1;g\nb;y;2;g\nc;noise;2;g\nd;x;3;h\ne;;2;g\n";
    CHECK(ids(from_table(folder, text)) == Strings{"a", "b", "c", "d"});
    CHECK(ids(from_table(folder, text, {{"where", {{"fold", {1, "2"}}, {"group", "g"}}}})) == Strings{"a", "b", "c"});
    Strings log;
    CallOptions options;
    options.log = [&](int, std::string_view line) { log.emplace_back(line); };
    CHECK(ids(from_table(folder, text, {{"where", {{"fold", 2}}}, {"exclude_labels", {"noise", "rain"}}}, options)) ==
          Strings{"b"});
    REQUIRE(log.size() == 2);
    CHECK_THAT(log[0], Contains("1 rows have no label") && Contains("table.csv:6"));
    CHECK_THAT(log[1], Contains("no chosen row has the label 'rain'"));
    CHECK_THAT(table_error(folder, text, {{"where", {{"flod", 2}}}}),
               Contains("'where'") && Contains("no column 'flod'") && Contains("did you mean 'fold'"));
    CHECK_THAT(table_error(folder, text, {{"where", {{"fold", {1, 7}}}}}),
               Contains("no row has 'fold' = '7'") && Contains("there are: 1, 2, 3"));
    CHECK_THAT(table_error(folder, text, {{"exclude_labels", {"x", "y", "noise"}}}), Contains("no row is left"));
}

TEST_CASE("a table with a column per label, and a path of several columns") {
    const TempFolder folder;
    const std::string text =
        "site,night,from,BOAFAB,DENMIN\nA,n1,0,1,0\nA,n1,3,0,1\nB,n2,0,1,1\nB,n2,3,0,0\nB,n2,6,0,1\n";
    const Json params = {{"columns", {{"path", "audio/{site}/{night}_{from}.wav"}, {"recording", "night"}}},
                         {"label_columns", {"BOAFAB", "DENMIN"}}};
    Strings log;
    CallOptions options;
    options.log = [&](int, std::string_view line) { log.emplace_back(line); };
    const auto d = from_table(folder, text, params, options);
    CHECK(ids(d) == Strings{"audio/A/n1_0.wav", "audio/A/n1_3.wav", "audio/B/n2_6.wav"});
    CHECK(labels(d) == Strings{"BOAFAB", "DENMIN", "DENMIN"});
    CHECK(d.recordings[2].uri == (folder / "audio/B/n2_6.wav").string());
    REQUIRE(log.size() == 2);
    CHECK_THAT(log[0], Contains("1 rows have no label") && Contains("table.csv:5"));
    CHECK_THAT(log[1], Contains("1 rows have several labels") && Contains("table.csv:4"));

    auto fault = [&](std::string_view table, std::string_view pointer, const Json& value) {
        Json changed = params;
        changed[Json::json_pointer(std::string(pointer))] = value;
        return table_error(folder, table, changed);
    };
    CHECK_THAT(fault(text, "/label_columns/1", "DENMIM"),
               Contains("no column 'DENMIM' for \"label_columns\"; did you mean 'DENMIN'?"));
    CHECK_THAT(fault(text, "/columns/path", "{sit}.wav"),
               Contains("no column 'sit' for the path '{sit}.wav'; did you mean 'site'?"));
    CHECK_THAT(fault(text, "/columns/path", "{site.wav"), Contains("a '{' and no '}' behind it"));
    CHECK_THAT(fault(text, "/columns/label", "site"), Contains("found both \"label\""));
    CHECK_THAT(fault("site,night,from,BOAFAB,DENMIN\nA,n1,0,2,0\n", "/columns/recording", "night"),
               Contains("table.csv:2: column 'BOAFAB': found '2', expected 1 where the label holds"));
    CHECK_THAT(fault("site,night,from,BOAFAB,DENMIN\n,n1,0,1,0\n", "/columns/recording", "night"),
               Contains("table.csv:2: column 'site': found '', expected its part of the path"));
    CHECK_THAT(fault("site,night,from,BOAFAB,DENMIN\nA,n1,0,1,1\n", "/columns/recording", "night"),
               Contains("no row is left") && Contains("1 have several"));
}

TEST_CASE("quotes, line ends and delimiters") {
    const TempFolder folder;
    for (const char* end : {"\n", "\r\n", "\r"}) {
        const std::string e = end;
        const auto d = from_table(folder, " label , path,licence" + e + e + "\"a, \"\"b\"\"\",x.wav,\"two" + e +
                                              "lines\"" + e + "c,\"y.wav\",\"\"");
        CHECK(labels(d) == Strings{"a, \"b\"", "c"});
        CHECK(ids(d) == Strings{"x.wav", "y.wav"});
        CHECK(d.recordings[0].licence == "two" + e + "lines");
    }
    CHECK(labels(from_table(folder, "path;label\na,b;c\n")) == Strings{"c"});
    CHECK(labels(from_table(folder, "path\tlabel,x\tz\na\tb\tc\n", {{"columns", {{"label", "label,x"}}}})) ==
          Strings{"b"});
    CHECK(labels(from_table(folder, "path,label;x\na,b;y\n",
                            {{"delimiter", ","}, {"columns", {{"label", "label;x"}}}})) == Strings{"b;y"});
}

TEST_CASE("splits of a table") {
    const TempFolder folder;
    const auto d = from_table(folder, "path,label,split\na,x,Training\nb,x,val\nc,x,TEST\nd,x,\ne,x,train\ne,x,test\n");
    CHECK(d.recordings[0].split == "train");
    CHECK(d.recordings[1].split == "valid");
    CHECK(d.recordings[2].split == "test");
    CHECK(d.recordings[3].split.empty());
    CHECK(d.recordings[4].split.empty());
    CHECK(d.regions[4].split == "train");
    CHECK(d.regions[5].split == "test");
    CHECK_THAT(table_error(folder, "path,label,split\na,x,1\n"),
               Contains("table.csv:2: column 'split': found '1', expected train"));
}

TEST_CASE("a table that can't be used is told by line and column") {
    const TempFolder folder;
    const auto fault = [&](std::string_view text, const Json& params = Json::object()) {
        return table_error(folder, text, params);
    };
    CHECK_THAT(fault(""), Contains("dataset:table") && Contains("the table is empty"));
    CHECK_THAT(fault("\n \r\n"), Contains("the table is empty"));
    CHECK_THAT(fault("path,label\n"), Contains("a header and no rows"));
    CHECK_THAT(fault("path\nx\n"), Contains("found no comma, tab or semicolon"));
    CHECK_THAT(fault("file,label\na,b\n"),
               Contains("no column 'path' for the path") && Contains("there are: file, label"));
    CHECK_THAT(fault("path,lable\na,b\n"), Contains("no column 'label'") && Contains("did you mean 'lable'"));
    CHECK_THAT(fault("path,label,Onset\na,b,1\n", {{"columns", {{"start", "onset"}}}}),
               Contains("'columns'") && Contains("no column 'onset' for the start") &&
                   Contains("did you mean 'Onset'") && Contains("path, label, Onset"));
    CHECK_THAT(fault("path,label,split,split\na,b,,\n"), Contains("has 2 columns 'split'"));
    CHECK_THAT(fault("path,label\na,b\n\na\n"), Contains("line 4: found 1 fields, expected 2"));
    CHECK_THAT(fault("path,label\n\"a\n\",b\na,b,c\n"), Contains("line 4: found 3 fields"));
    CHECK_THAT(fault("path,label\na,\"b\n"), Contains("line 2: a quoted field begins here"));
    CHECK_THAT(fault("path,label\n\"a\"x,b\n"), Contains("line 2: found 'x' after a closing quote"));
    CHECK_THAT(fault("path,label\na,b\xe4\n"), Contains("line 2: found bytes that are not UTF-8"));
    CHECK_THAT(fault(std::string("\xff\xfep\0a\0", 6)), Contains("UTF-16"));
    CHECK_THAT(fault("PK\x03\x04zip"), Contains("spreadsheet"));
    CHECK_THAT(fault("path,label,start_s\na,b,x1\n"),
               Contains("table.csv:2: column 'start_s': found 'x1', expected a number"));
    CHECK_THAT(fault("path;label;start_s\na;b;1,5\n"),
               Contains("found '1,5', expected a number with a decimal point, not a comma"));
    CHECK_THAT(fault("path,label,start_s\na,b,nan\n"), Contains("found 'nan', expected a number"));
    CHECK_THAT(fault("path,label,start_s\na,b,-1\n"), Contains("found '-1', expected 0 or more seconds"));
    CHECK_THAT(fault("path,label,start_s,end_s\na,b,2,1\n"),
               Contains("column 'end_s': found '1', expected a time after the start at 2 s"));
    CHECK_THAT(fault("path,label,d\na,b,0\n", {{"columns", {{"duration", "d"}}}}),
               Contains("expected more than 0 seconds"));
    CHECK_THAT(fault("path,label,d\na,b,0\n", {{"columns", {{"duration", "d"}, {"end", "d"}}}}),
               Contains("both \"end\" and \"duration\""));
    CHECK_THAT(fault("path,label,c\na,b,0\n", {{"columns", {{"channel", "c"}}}}),
               Contains("found '0', expected a whole number, 1 for the first"));
    CHECK_THAT(fault("path,label\n,b\n"), Contains("table.csv:2: column 'path': found ''"));
    CHECK_THAT(fault("path,label,recording_id\na,b,1\na,b,2\n"),
               Contains("table.csv:3: column 'recording_id': found '2', expected '1' as in line 2"));
    CHECK_THAT(error_of([&] {
                   describe("dataset:table", {{"file", folder.string() + "/none.csv"}});
               }),
               Contains("can't read the table"));
    CHECK_THAT(error_of([&] { describe("dataset:table", {{"file", folder.string()}}); }), Contains("it is a folder"));
    CHECK_THAT(fault("path,label\na,b\n", {{"root", folder.string() + "/none"}}),
               Contains("no error"));  // files are the host's business
}

TEST_CASE("a cancelled call into a plugin ends as cancelled") {
    const TempFolder folder;
    tone(folder / "frog/a.wav");
    Cancel cancel;
    cancel.request();
    CallOptions options;
    options.cancel = &cancel;
    try {
        describe("dataset:folder", {{"root", folder.string()}}, options);
        FAIL("not cancelled");
    } catch (const Error& error) {
        CHECK(error.code() == Code::kCancelled);
    }
}

TEST_CASE("the real recordings: the table as it lies") {
    const fs::path data = real_data();
    if (data.empty()) return;
    const auto d =
        describe("dataset:table", {{"file", (data / "clips.csv").string()}, {"where", {{"taxon_group", "amphibian"}}}});
    CHECK(d.regions.size() == 492);
    std::set<std::string> names;
    for (const auto& label : labels(d)) names.insert(label);
    CHECK(names.size() == 20);
    for (size_t i = 0; i < d.recordings.size(); i += 10) {
        INFO(d.recordings[i].uri);
        CHECK(check_audio(d.recordings[i].uri).problem.empty());
        CHECK_FALSE(group(d.recordings[i], "recording").empty());
        CHECK_FALSE(d.recordings[i].split.empty());
    }
    for (size_t i = 0; i < d.regions.size(); i += 25) {
        const Region& r = d.regions[i];
        CHECK(static_cast<double>(decode_audio(d.recordings[r.recording].uri, r.start_s, r.end_s, -1, 16000).size()) ==
              Approx((r.end_s - r.start_s) * 16000).margin(20));
    }
}

TEST_CASE("the real recordings: untouched source files of many formats") {
    const fs::path data = real_data();
    if (data.empty()) return;
    size_t seen = 0;
    for (const auto& entry : fs::recursive_directory_iterator(data / "originals")) {
        std::string kind = entry.path().extension().string();
        if (!entry.is_regular_file() || (kind != ".wav" && kind != ".mp3" && kind != ".ogg" && kind != ".flac"))
            continue;
        if (entry.file_size() > 3000000) continue;
        INFO(entry.path().string());
        const AudioCheck check = check_audio(entry.path());
        ++seen;
        if (entry.path().filename() == "empty_2c.wav") {
            CHECK_THAT(check.problem, Contains("0 could be decoded"));
            continue;
        }
        CHECK(check.problem.empty());
        const double rate = check.info.sample_rate;
        const auto all = decode_audio(entry.path(), 0, std::nan(""), -1, rate);
        CHECK(static_cast<int64_t>(all.size()) == check.info.frames);
        for (const double share : {0.31, 0.77}) {
            const double first = std::floor(share * static_cast<double>(all.size()));
            const auto got = decode_audio(entry.path(), first / rate, (first + 500) / rate, -1, rate);
            for (size_t i = 0; i < got.size(); ++i)
                if (std::abs(got[i] - all[static_cast<size_t>(first) + i]) > 1e-6) {
                    FAIL_CHECK("differs at " << i);
                    break;
                }
        }
    }
    CHECK(seen >= 20);
}
