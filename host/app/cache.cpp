#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <ctime>

#include "app/command.hpp"
#include "app/console.hpp"
#include "base/nearest.hpp"
#include "pipeline/store.hpp"
#include "pipeline/units.hpp"

namespace biophony::app {

namespace {

std::string time_text(int64_t seconds) {
    return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(static_cast<std::time_t>(seconds)));
}

Json json_of(const StoreEntry& entry) {
    return {{"key", entry.key},
            {"node", entry.text("node")},
            {"type", entry.text("type")},
            {"bytes", entry.bytes},
            {"made", entry.text("finished")},
            {"seconds", entry.seconds()},
            {"used", time_text(entry.used)},
            {"folder", entry.folder.string()}};
}

Json json_of(const std::vector<StoreEntry>& entries) {
    Json out = Json::array();
    for (const StoreEntry& entry : entries) out.push_back(json_of(entry));
    return out;
}

std::string node_of(const StoreEntry& entry) {
    return entry.record.is_null() ? "(damaged)" : entry.text("node");
}

struct Total {
    size_t results = 0;
    uint64_t bytes = 0;
    double seconds = 0;
};

void list(const std::vector<StoreEntry>& entries, const fs::path& store, bool json) {
    std::map<std::string, Total> totals;
    Total all;
    for (const StoreEntry& entry : entries)
        for (Total* total : {&totals[entry.text("type")], &all}) {
            ++total->results;
            total->bytes += entry.bytes;
            total->seconds += entry.seconds();
        }
    if (json) {
        Json types = Json::object();
        for (const auto& [type, total] : totals)
            types[type] = {{"results", total.results}, {"bytes", total.bytes}, {"seconds", total.seconds}};
        print_json({{"format", "biophony-cache/0"},
                    {"store", store.string()},
                    {"results", json_of(entries)},
                    {"types", types},
                    {"bytes", all.bytes}});
        return;
    }
    size_t node_width = 4, type_width = 5;
    for (const StoreEntry& entry : entries) {
        node_width = std::max(node_width, node_of(entry).size());
        type_width = std::max(type_width, entry.text("type").size());
    }
    std::vector<const StoreEntry*> sorted;
    for (const StoreEntry& entry : entries) sorted.push_back(&entry);
    std::sort(sorted.begin(), sorted.end(), [](const StoreEntry* a, const StoreEntry* b) {
        return std::tuple(a->text("type"), node_of(*a), a->text("finished"), a->key) <
               std::tuple(b->text("type"), node_of(*b), b->text("finished"), b->key);
    });
    if (!entries.empty())
        fmt::print("{:<{}}  {:<{}}  {:>9}  {:>12}  {:<20}  {:<20}  key\n", "type", type_width, "node", node_width,
                   "size", "took", "made", "last used");
    for (const StoreEntry* entry : sorted)
        fmt::print("{:<{}}  {:<{}}  {:>9}  {:>12}  {:<20}  {:<20}  {}\n", entry->text("type"), type_width,
                   node_of(*entry), node_width, bytes_text(entry->bytes), about(entry->seconds()),
                   entry->text("finished"), time_text(entry->used), entry->key.substr(0, 12));
    fmt::print("{}", entries.empty() ? "" : "\n");
    for (const auto& [type, total] : totals)
        fmt::print("{:<{}}  {:>6} result{}  {:>9}  made in {}\n", type.empty() ? "?" : type, type_width, total.results,
                   total.results == 1 ? " " : "s", bytes_text(total.bytes), about(total.seconds));
    fmt::print("{} results, {}, in {}\n", entries.size(), bytes_text(all.bytes), store.string());
}

std::string told(const Removed& removed) {
    return removed.held == 0 ? bytes_text(removed.bytes)
                             : fmt::format("{}, of which {} stay on the disk, as run directories link these files",
                                           bytes_text(removed.bytes), bytes_text(removed.held));
}

int verify(const std::vector<StoreEntry>& entries, const fs::path& store, bool remove, bool json) {
    Console console;
    console.start("verify");
    double bytes = 0, done = 0;
    for (const StoreEntry& entry : entries) bytes += static_cast<double>(entry.bytes);
    std::vector<StoreEntry> broken;
    Json records = Json::array();
    for (const StoreEntry& entry : entries) {
        cancel.check();
        const std::vector<std::string> faults = faults_of(entry);
        console.update(done += static_cast<double>(entry.bytes), bytes, "bytes");
        if (faults.empty()) continue;
        broken.push_back(entry);
        Json record = json_of(entry);
        record["faults"] = faults;
        records.push_back(record);
        if (json) continue;
        console.clear();
        for (const std::string& fault : faults)
            fmt::print("broken  {}  {}\n        {}\n", node_of(entry), fault, entry.folder.string());
    }
    console.clear();
    if (remove && !broken.empty()) remove_results(store, broken, false);
    if (json)
        print_json({{"format", "biophony-cache/0"},
                    {"store", store.string()},
                    {"checked", entries.size()},
                    {"broken", records},
                    {"removed", remove && !broken.empty()}});
    else
        fmt::print("{} results, {}: {}\n", entries.size(), bytes_text(static_cast<uint64_t>(bytes)),
                   broken.empty() ? "every file is as it was made"
                   : remove       ? fmt::format("{} broken, removed; the next run makes them again", broken.size())
                                  : fmt::format("{} broken; --remove takes them away", broken.size()));
    return broken.empty() ? 0 : static_cast<int>(Code::kRunFailed);
}

void prune(const std::vector<StoreEntry>& entries, const fs::path& store, const options::variables_map& values,
           bool json) {
    std::optional<int64_t> before;
    std::optional<uint64_t> keep;
    if (values.count("older-than") > 0)
        before = std::time(nullptr) - parse_duration("--older-than", values["older-than"].as<std::string>());
    if (values.count("keep-bytes") > 0) keep = parse_bytes("--keep-bytes", values["keep-bytes"].as<std::string>());
    if (!before && !keep)
        throw Error(Code::kInvalid,
                    "cache prune: found neither --older-than nor --keep-bytes, expected one of them or both");
    const bool dry = values.count("dry-run") > 0;
    const std::vector<StoreEntry> chosen = choose_for_pruning(entries, before, keep);
    const Removed removed = remove_results(store, chosen, dry);
    uint64_t left = 0;
    for (const StoreEntry& entry : entries) left += entry.bytes;
    left -= removed.bytes;
    if (json) {
        print_json({{"format", "biophony-cache/0"},
                    {"store", store.string()},
                    {"removed", json_of(chosen)},
                    {"bytes", removed.bytes},
                    {"bytes_held_by_run_directories", removed.held},
                    {"bytes_left", left},
                    {"dry_run", dry}});
        return;
    }
    if (dry)
        for (const StoreEntry& entry : chosen)
            fmt::print("{:>9}  last used {}  {}\n", bytes_text(entry.bytes), time_text(entry.used), node_of(entry));
    fmt::print("{} {} of {} results, {}; {} {}\n", dry ? "would remove" : "removed", chosen.size(), entries.size(),
               told(removed), bytes_text(left), dry ? "would be left" : "are left");
}

}  // namespace

int cache_command(const std::vector<std::string>& arguments) {
    options::options_description described;
    described.add_options()("_verb", options::value<std::string>()->required(), "");
    described.add_options()(
        "store", options::value<std::string>()->value_name("DIR"),
        "the store; $BIOPHONY_STORE, else biophony/store in the user's cache folder, where it isn't given");
    described.add_options()("remove", "verify: removes the results that are broken");
    described.add_options()("older-than", options::value<std::string>()->value_name("30d"),
                            "prune: results that were last used longer ago (s, m, h, d, w)");
    described.add_options()("keep-bytes", options::value<std::string>()->value_name("10GB"),
                            "prune: the least recently used results, until the others have at most this size");
    described.add_options()("dry-run", "prune: only says what would be removed");
    add_format_option(described);
    options::positional_options_description positional;
    positional.add("_verb", 1);
    options::variables_map values;
    if (!parse(arguments, "cache list|verify|prune [options]",
               "Looks after the store in which results are kept. list: every result, its size, when it was made and "
               "last used. verify: compares every file with its hash; status 1 where one differs. prune: removes "
               "results that weren't used for long; a run makes again what it needs.",
               described, positional, values))
        return 0;
    const std::string verb = values["_verb"].as<std::string>();
    const std::vector<std::string> verbs = {"list", "verify", "prune"};
    if (std::find(verbs.begin(), verbs.end(), verb) == verbs.end())
        throw Error(Code::kInvalid,
                    with_nearest(fmt::format("cache: found '{}', expected list, verify or prune", verb), verb, verbs));
    for (const auto& [option, owner] :
         {std::pair{"remove", "verify"}, {"older-than", "prune"}, {"keep-bytes", "prune"}, {"dry-run", "prune"}})
        if (values.count(option) > 0 && verb != owner)
            throw Error(Code::kInvalid, fmt::format("--{} belongs to 'cache {}'", option, owner));
    const bool json = format_of(values) == "json";
    const fs::path store = fs::absolute(store_of(values)).lexically_normal();
    const std::vector<StoreEntry> entries = list_store(store);
    if (verb == "list") list(entries, store, json);
    if (verb == "verify") return verify(entries, store, values.count("remove") > 0, json);
    if (verb == "prune") prune(entries, store, values, json);
    return 0;
}

}  // namespace biophony::app
