// The command embed: files → windows → batches → rows in a spool → one file.
//
// A row is known to be good only when its file has been read to its end, and how many there are only then; so rows go
// into a spool first, a file without a name beside the output, and what turned out well is put together at the end.
// Memory depends on batch and window, not on how much sound there is.
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <c10/core/InferenceMode.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <list>
#include <optional>
#include <span>

#include "audio/decode.hpp"
#include "base/csv.hpp"
#include "base/files.hpp"
#include "base/memory.hpp"
#include "base/nearest.hpp"
#include "base/schema.hpp"
#include "base/sha256.hpp"
#include "learn/autocast.hpp"
#include "learn/encoder.hpp"
#include "learn/runtime.hpp"
#include "plugins/call.hpp"
#include "tasks/sound_reader.hpp"
#include "tasks/torch_runtime.hpp"
#include "weights/checkpoint.hpp"

namespace biophony {

namespace {

constexpr size_t kSamplesAhead = size_t{1} << 24;          // that wait for the encoder, 64 MiB
constexpr double kBatchBytes = 2.0 * (uint64_t{1} << 30);  // what a forward pass may take, estimated
constexpr double kHeaderBytes = 95e6;                      // the format allows 100 MB
// Bytes in the header, at most: two numbers of up to 22 with brackets and commas; the rest of a file; of a tensor.
constexpr double kRowText = 48, kInputText = 260, kTensorText = 160;

LoadedEncoder open_encoder(const EmbedOptions& options, const Registry& registry) {
    if (options.encoder.empty()) {
        bool named = false;
        try {
            named = SafetensorsFile::open(options.checkpoint).metadata().contains("biophony.config");
        } catch (const Error&) {  // a file of others, which says nothing, or no weights at all
        }
        if (!named) {
            std::vector<std::string> ids;
            for (const ItemInfo* item : registry.items("encoder")) ids.push_back(item->id);
            throw Error(Code::kInvalid,
                        fmt::format("doesn't say which encoder it is of; name it with --encoder, there are: {}",
                                    fmt::join(ids, ", ")),
                        {.file = options.checkpoint.string()});
        }
        return load_encoder(options.checkpoint, registry);
    }
    const ItemInfo& item = registry.require(options.encoder);
    Json params = Json::object();
    std::vector<Diagnostic> problems;
    apply_schema(item.parameters, params, "", problems);
    if (!problems.empty()) throw Error(Code::kInvalid, problems[0].message, {.plugin = item.name()});
    // Encoders that can keep a published classifier do so on request.
    if (options.predictions && item.parameters.value("properties", Json::object()).contains("predictor"))
        params["predictor"] = true;
    if (!options.checkpoint.empty()) return load_checkpoint(item, params, options.checkpoint, options.config);
    LoadedEncoder encoder = make_encoder(item, params, 0);
    if (!encoder.module->parameters().empty())
        throw Error(Code::kInvalid, "has weights to load; name their file with --checkpoint", {.plugin = item.name()});
    return encoder;
}

/// What a forward pass on so many samples takes, roughly: with heads of 64, as nearly all have, a relative position
/// bias, its copy and a mask of frames × frames for each, and the places in the bias' table (as measured with
/// encoder:beats); two dozen numbers of each frame's width. The front end's features are small beside it.
double forward_bytes(const EncoderInfo& info, int64_t samples, bool layers) {
    const double frames = std::max(1.0, static_cast<double>(samples) / info.sample_rate * info.frames_per_second);
    const auto width = static_cast<double>(info.width), depth = static_cast<double>(info.depth);
    const double pairs = info.depth > 0 ? 8 + 12 * std::max(1.0, std::round(width / 64)) : 0;
    return frames * frames * pairs + frames * width * 4 * (24 + (layers ? depth + 1 : 0));
}

std::string in_bytes(double bytes) {
    return bytes >= 1e12 ? fmt::format("{:.1f} TB", bytes / 1e12) : fmt::format("{:.1f} GB", bytes / 1e9);
}

/// The text with what isn't UTF-8 replaced: file names may hold any bytes, JSON can't.
std::string utf8(const std::string& text) {
    return Json::parse(Json(text).dump(-1, ' ', false, Json::error_handler_t::replace));
}

/// Floats in a file without a name, which is gone however this process ends.
class Spool {
public:
    explicit Spool(const fs::path& beside) : path_(beside) {
        const std::string name = beside.string() + ".tmp-" + unique_name();
        std::error_code problem;
        if (beside.has_parent_path()) fs::create_directories(beside.parent_path(), problem);
        fd_ = ::open(name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd_ < 0) throw_errno("write", beside);
        ::unlink(name.c_str());
    }
    ~Spool() { ::close(fd_); }
    Spool(const Spool&) = delete;
    Spool& operator=(const Spool&) = delete;

    /// Returns the place of the first.
    uint64_t append(std::span<const float> values) {
        const uint64_t at = size_;
        each(values.data(), values.size(), at, ::pwrite, "write");
        size_ += values.size();
        return at;
    }
    void read(uint64_t at, std::span<float> out) const { each(out.data(), out.size(), at, ::pread, "read"); }

private:
    template <class Value, class Call>
    void each(Value* values, size_t count, uint64_t at, Call call, const char* verb) const {
        const size_t bytes = count * sizeof(float);
        for (size_t done = 0; done < bytes;) {
            const ssize_t moved = call(fd_, const_cast<char*>(reinterpret_cast<const char*>(values)) + done,
                                       bytes - done, static_cast<off_t>(at * sizeof(float) + done));
            if (moved < 0 && errno == EINTR) continue;
            if (moved == 0) errno = EIO;
            if (moved <= 0) throw_errno(verb, path_);
            done += static_cast<size_t>(moved);
        }
    }

    fs::path path_;
    int fd_ = -1;
    uint64_t size_ = 0;  ///< floats
};

/// A text file that appears with close() and finish() or not at all.
class TextFile {
public:
    explicit TextFile(fs::path path) : path_(std::move(path)), temporary_(path_.string() + ".tmp-" + unique_name()) {
        std::error_code problem;
        if (path_.has_parent_path()) fs::create_directories(path_.parent_path(), problem);
        out_.open(temporary_, std::ios::binary);
        check();
    }
    ~TextFile() {
        std::error_code ignored;
        if (!finished_) fs::remove(temporary_, ignored);
    }
    TextFile(const TextFile&) = delete;
    TextFile& operator=(const TextFile&) = delete;

    void write(std::string_view text) {
        out_ << text;
        check();
    }
    /// All that can go wrong but for the name: the bytes are on the disk.
    void close() {
        out_.close();
        check();
        sync_path(temporary_);
    }
    /// After close().
    void finish() {
        if (::rename(temporary_.c_str(), path_.c_str()) != 0) throw_errno("write", path_);
        finished_ = true;
        sync_path(path_.has_parent_path() ? path_.parent_path() : fs::path("."));
    }

private:
    void check() const {
        if (!out_) throw_errno("write", path_);
    }
    fs::path path_, temporary_;
    std::ofstream out_;
    bool finished_ = false;
};

/// Where a window's numbers lie in the spool: clip, predictions, frames, layers, one after the other.
struct Row {
    uint64_t at = 0;
    int64_t frames = 0;
};

class Embedding {
public:
    Embedding(const EmbedOptions& options, const Registry& registry, Progress& progress, const Cancel& cancel)
        : options_(options),
          progress_(progress),
          cancel_(cancel),
          encoder_(open_encoder(options, registry)),
          info_(encoder_.module->info()),
          spool_(options.out.empty() ? options.csv : options.out),
          inputs_(options.inputs),
          rows_(options.inputs.size()) {
        encoder_.module->eval();
        if (!options.csv.empty()) Spool(options.csv);  // throws where it can't be written
        plan_.rate = info_.sample_rate;
        plan_.window = std::llround(options.window_seconds * info_.sample_rate);
        plan_.hop = std::llround(options.hop_seconds * info_.sample_rate);
        plan_.least = info_.min_samples;
        check();
    }

    EmbedResult run() {
        look_at_files();
        if (!options_.checkpoint.empty()) checkpoint_hash_ = sha256_file(options_.checkpoint);
        const auto begin = std::chrono::steady_clock::now();
        embed();
        EmbedResult result{.width = info_.width};
        for (size_t i = 0; i < inputs_.size(); ++i) {
            if (!inputs_[i].problem.empty()) continue;
            inputs_[i].rows = static_cast<int64_t>(rows_[i].size());
            result.rows += inputs_[i].rows;
            result.sound_seconds += inputs_[i].seconds;
        }
        if (result.rows > 0) {
            // Neither has its name before both are whole.
            std::optional<TextFile> table;
            if (!options_.csv.empty()) write_table(table.emplace(options_.csv));
            if (!options_.out.empty()) write_tensors();
            if (table) table->finish();
        }
        result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
        result.inputs = std::move(inputs_);
        return result;
    }

private:
    bool whole() const { return plan_.window == 0; }

    /// What is wrong with the options, as far as the encoder decides it.
    void check() {
        const double least = static_cast<double>(info_.min_samples) / info_.sample_rate;
        if (options_.window_seconds > 0 && plan_.window < info_.min_samples)
            throw Error(Code::kInvalid, fmt::format("--window: found {} s, {} needs at least {:.4g} s",
                                                    options_.window_seconds, encoder_.card.encoder, least));
        if (!whole() && plan_.hop < 1)
            throw Error(Code::kInvalid, fmt::format("--hop: found {} s, less than a sample at {} Hz",
                                                    options_.hop_seconds, info_.sample_rate));
        if (options_.predictions && info_.classes == 0)
            throw Error(Code::kInvalid,
                        fmt::format("--predictions: {} with this checkpoint has no classifier of its own",
                                    encoder_.card.encoder));
        const double free = free_memory();
        auto too_long = [this, free](int64_t samples) -> std::string {
            const double bytes = forward_bytes(info_, samples, options_.layers);
            if (bytes < 0.75 * free) return {};  // the estimate is one, and others want some
            return fmt::format("{:.0f} s at once would take the encoder about {} of memory, {} are free",
                               static_cast<double>(samples) / info_.sample_rate, in_bytes(bytes), in_bytes(free));
        };
        if (const std::string problem = too_long(plan_.window); !whole() && !problem.empty())
            throw Error(Code::kInvalid, "--window: " + problem);
        plan_.too_long = [too_long](int64_t samples) {
            const std::string problem = too_long(samples);
            return problem.empty() ? problem : problem + "; --window SECONDS makes a row for each few seconds instead";
        };
    }

    /// Headers: how much there is, and whether the result's header can hold it.
    void look_at_files() {
        double header = 2000;
        for (size_t i = 0; i < inputs_.size(); ++i) {
            cancel_.check();
            EmbedInput& input = inputs_[i];
            progress_.update(static_cast<double>(i), static_cast<double>(inputs_.size()), "files looked at");
            try {
                const AudioInfo info = read_audio_info(input.path);
                input.seconds = info.seconds();
                input.sample_rate = info.sample_rate;
                input.channels = info.channels;
                total_ += input.seconds;
            } catch (const Error& error) {
                input.problem = error.message().text;
            }
            const int64_t rows =
                whole() ? 1 : window_count(std::llround(input.seconds * info_.sample_rate), plan_.window, plan_.hop);
            // A path is text in JSON that is text in JSON.
            const size_t path = Json(Json(utf8(input.path)).dump()).dump().size();
            header += kInputText + static_cast<double>(path) + kRowText * static_cast<double>(rows) +
                      kTensorText * (1 + options_.frames + options_.layers + options_.predictions);
        }
        if (!options_.out.empty() && header > kHeaderBytes)
            throw Error(
                Code::kInvalid,
                fmt::format("{} files would need a header of about {:.0f} MB, the format allows 100; embed them "
                            "in parts, or as a table (--out FILE.csv)",
                            inputs_.size(), header / 1e6));
    }

    void embed() {
        const c10::InferenceMode no_gradients;
        std::vector<std::string> paths;
        for (size_t i = 0; i < inputs_.size(); ++i)
            if (inputs_[i].problem.empty()) {
                read_.push_back(i);
                paths.push_back(inputs_[i].path);
            }
        SoundReader reader(std::move(paths), plan_, kSamplesAhead);
        while (std::optional<SoundPiece> piece = reader.next(cancel_)) {
            piece->input = read_[piece->input];
            if (piece->row < 0)
                finish(*piece);
            else
                add(std::move(*piece));
        }
        while (!waiting_.empty()) forward(waiting_.front().samples.size());
        for (size_t i = 0; i < inputs_.size(); ++i)
            if (!inputs_[i].problem.empty()) rows_[i].clear();
    }

    /// Pieces of one length go through the encoder together, whatever files they are of. Those that wait for more of
    /// their length go when too many wait, the longest waiting first.
    void add(SoundPiece piece) {
        const size_t length = piece.samples.size();
        waiting_samples_ += length;
        waiting_.push_back(std::move(piece));
        const auto alike = std::count_if(waiting_.begin(), waiting_.end(),
                                         [&](const SoundPiece& other) { return other.samples.size() == length; });
        if (static_cast<size_t>(alike) >= batch_of(length)) forward(length);
        while (waiting_.size() > 16 * options_.batch || waiting_samples_ > kSamplesAhead)
            forward(waiting_.front().samples.size());
    }

    void finish(const SoundPiece& end) {
        EmbedInput& input = inputs_[end.input];
        if (end.problem.empty()) {
            input.seconds = static_cast<double>(end.length) / info_.sample_rate;
            return;
        }
        input.problem = end.problem;
        std::erase_if(waiting_, [&](const SoundPiece& piece) {
            if (piece.input != end.input) return false;
            waiting_samples_ -= piece.samples.size();
            return true;
        });
    }

    size_t batch_of(size_t length) const {
        const double each = forward_bytes(info_, static_cast<int64_t>(length), options_.layers);
        return static_cast<size_t>(std::clamp(kBatchBytes / each, 1.0, static_cast<double>(options_.batch)));
    }

    /// One batch of waiting pieces of this length.
    void forward(size_t length) {
        cancel_.check();
        std::vector<SoundPiece> pieces;
        const size_t most = batch_of(length);
        for (auto at = waiting_.begin(); at != waiting_.end() && pieces.size() < most;) {
            if (at->samples.size() == length) {
                waiting_samples_ -= length;
                pieces.push_back(std::move(*at));
                at = waiting_.erase(at);
            } else {
                ++at;
            }
        }
        at::Tensor waves = at::empty({static_cast<int64_t>(pieces.size()), static_cast<int64_t>(length)}, at::kFloat);
        float* to = waves.data_ptr<float>();
        for (SoundPiece& piece : pieces) {
            to = std::copy(piece.samples.begin(), piece.samples.end(), to);
            piece.samples = {};
        }
        try {
            keep(pieces, waves);
        } catch (const Error&) {
            throw;
        } catch (const std::exception& error) {
            // LibTorch's texts carry a backtrace after the first line.
            const std::string_view text = error.what();
            throw Error(Code::kRunFailed, std::string(text.substr(0, text.find('\n'))),
                        {.file = inputs_[pieces[0].input].path, .plugin = encoder_.card.encoder});
        }
        for (const SoundPiece& piece : pieces) {
            const double end = static_cast<double>(whole() ? static_cast<int64_t>(length) : plan_.hop);
            const double from = static_cast<double>(piece.row * plan_.hop) / plan_.rate;
            done_ += std::min(end / plan_.rate, std::max(0.0, inputs_[piece.input].seconds - from));
        }
        progress_.update(std::min(done_, total_), total_, "s of sound");
    }

    void keep(const std::vector<SoundPiece>& pieces, const at::Tensor& waves) {
        Encoder& module = *encoder_.module;
        const at::Tensor features = module.features(waves);
        at::Tensor frames, predictions;
        std::vector<at::Tensor> layers;
        auto plain = [](const at::Tensor& values) { return values.to(at::kFloat).contiguous(); };
        {
            const Autocast autocast(options_.bfloat16);
            frames = module.frames(features, std::nullopt);
            if (options_.predictions) predictions = module.predictions(frames, std::nullopt);
            if (options_.layers) layers = module.layers(features, std::nullopt);
        }
        frames = plain(frames);
        const at::Tensor clips = frames.mean(1);
        if (options_.predictions) predictions = plain(predictions);
        for (at::Tensor& layer : layers) layer = plain(layer);
        if (!layers.empty()) layer_count_ = static_cast<int64_t>(layers.size());
        const at::Tensor good = at::isfinite(clips).all(1);
        for (size_t b = 0; b < pieces.size(); ++b) {
            const SoundPiece& piece = pieces[b];
            EmbedInput& input = inputs_[piece.input];
            if (!good[static_cast<int64_t>(b)].item<bool>() && input.problem.empty())
                input.problem = fmt::format("the encoder gives values that are infinite or not numbers at {:.3f} s",
                                            static_cast<double>(piece.row * plan_.hop) / plan_.rate);
            auto row_of = [&](const at::Tensor& values) {
                const int64_t each = values.numel() / values.size(0);
                return std::span(values.const_data_ptr<float>() + static_cast<int64_t>(b) * each,
                                 static_cast<size_t>(each));
            };
            const Row row{.at = spool_.append(row_of(clips)), .frames = frames.size(1)};
            if (options_.predictions) spool_.append(row_of(predictions));
            if (options_.frames) spool_.append(row_of(frames));
            for (const at::Tensor& layer : layers) spool_.append(row_of(layer));
            // A batch has rows of a file in their order, but of several lengths the rare ones wait.
            std::vector<Row>& rows = rows_[piece.input];
            if (rows.size() <= static_cast<size_t>(piece.row)) rows.resize(static_cast<size_t>(piece.row) + 1);
            rows[static_cast<size_t>(piece.row)] = row;
        }
    }

    /// Start and end of a row in seconds; the last window of a file is cut where the file ends.
    std::pair<double, double> times(size_t input, size_t row) const {
        if (whole()) return {0, inputs_[input].seconds};
        const int64_t start = static_cast<int64_t>(row) * plan_.hop;
        const auto seconds = [&](int64_t samples) { return static_cast<double>(samples) / plan_.rate; };
        return {seconds(start), std::min(seconds(start + plan_.window), inputs_[input].seconds)};
    }

    void write_table(TextFile& table) {
        std::string line = "path,start_s,end_s";
        for (int64_t d = 0; d < info_.width; ++d) line += fmt::format(",e{}", d);
        table.write(line + "\n");
        std::vector<float> values(static_cast<size_t>(info_.width));
        for (size_t i = 0; i < inputs_.size(); ++i)
            for (size_t r = 0; r < rows_[i].size(); ++r) {
                cancel_.check();
                const auto [start, end] = times(i, r);
                line = fmt::format("{},{},{}", csv_field(inputs_[i].path), start, end);
                spool_.read(rows_[i][r].at, values);
                for (const float value : values) fmt::format_to(std::back_inserter(line), ",{}", value);
                table.write(line + "\n");
            }
        table.close();
    }

    /// The numbers of one row that make up a tensor: their place behind the row's begin, and shape.
    struct Part {
        const char* name;
        int64_t offset;
        std::vector<int64_t> shape;
        int64_t count() const {
            int64_t product = 1;
            for (const int64_t size : shape) product *= size;
            return product;
        }
    };
    std::vector<Part> parts(int64_t frames) const {
        std::vector<Part> out = {{"clip", 0, {info_.width}}};
        auto add = [&](const char* name, std::vector<int64_t> shape) {
            out.push_back({name, out.back().offset + out.back().count(), std::move(shape)});
        };
        if (options_.predictions) add("predictions", {info_.classes});
        if (options_.frames) add("frames", {frames, info_.width});
        if (options_.layers) add("layers", {layer_count_, frames, info_.width});
        return out;
    }

    std::map<std::string, std::string> metadata() const {
        Json inputs = Json::array(), skipped = Json::array();
        for (size_t i = 0; i < inputs_.size(); ++i) {
            const EmbedInput& input = inputs_[i];
            if (!input.problem.empty()) {
                skipped.push_back({{"index", i}, {"path", utf8(input.path)}, {"reason", utf8(input.problem)}});
                continue;
            }
            Json rows = Json::array();
            for (size_t r = 0; r < rows_[i].size(); ++r) {
                const auto [start, end] = times(i, r);
                rows.push_back({start, end});
            }
            inputs.push_back({{"index", i},
                              {"path", utf8(input.path)},
                              {"seconds", input.seconds},
                              {"sample_rate", input.sample_rate},
                              {"channels", input.channels},
                              {"rows", std::move(rows)}});
        }
        Json window = "whole", hop;
        if (!whole()) {
            window = static_cast<double>(plan_.window) / plan_.rate;
            hop = static_cast<double>(plan_.hop) / plan_.rate;
        }
        const Json encoder = {{"item", encoder_.card.encoder},
                              {"config", encoder_.card.config},
                              {"sample_rate", info_.sample_rate},
                              {"frames_per_second", info_.frames_per_second},
                              {"bands", info_.bands},
                              {"checkpoint", utf8(options_.checkpoint.filename().string())},
                              {"checkpoint_sha256", checkpoint_hash_}};
        std::map<std::string, std::string> all = {
            {"biophony.format", "embeddings/0"},
            {"biophony.version", options_.program_version},
            {"biophony.libtorch", std::string(libtorch_version())},
            {"biophony.encoder", encoder.dump()},
            {"biophony.window", Json({{"seconds", window}, {"hop_seconds", hop}}).dump()},
            {"biophony.precision", options_.bfloat16 ? "bf16" : "float32"},
            {"biophony.inputs", inputs.dump()},
            {"biophony.skipped", skipped.dump()}};
        if (options_.predictions)
            if (const std::string labels = Checkpoint::open(options_.checkpoint).labels(); !labels.empty())
                all["biophony.labels"] = labels;
        return all;
    }

    void write_tensors() {
        std::vector<SafetensorsWriter::Tensor> tensors;
        double total = 0, written = 0;
        for (size_t i = 0; i < inputs_.size(); ++i) {
            if (rows_[i].empty()) continue;
            for (const Part& part : parts(rows_[i][0].frames)) {
                std::vector<int64_t> shape = part.shape;
                if (!whole()) shape.insert(shape.begin(), static_cast<int64_t>(rows_[i].size()));
                tensors.push_back({fmt::format("{}.{}", i, part.name), DType::kF32, std::move(shape)});
            }
            total += static_cast<double>(rows_[i].size());
        }
        SafetensorsWriter writer(options_.out, tensors, metadata());
        std::vector<float> values;
        for (size_t i = 0; i < inputs_.size(); ++i) {
            if (rows_[i].empty()) continue;
            for (const Part& part : parts(rows_[i][0].frames)) {
                const auto count = static_cast<uint64_t>(part.count());
                const std::string name = fmt::format("{}.{}", i, part.name);
                values.resize(count);
                for (size_t r = 0; r < rows_[i].size(); ++r) {
                    cancel_.check();
                    spool_.read(rows_[i][r].at + static_cast<uint64_t>(part.offset), values);
                    writer.write_floats(name, r * count, values);
                }
            }
            written += static_cast<double>(rows_[i].size());
            progress_.update(written, total, "rows written");
        }
        writer.finish();
    }

    const EmbedOptions& options_;
    Progress& progress_;
    const Cancel& cancel_;
    LoadedEncoder encoder_;
    EncoderInfo info_;
    Spool spool_;
    WindowPlan plan_;
    std::string checkpoint_hash_;
    std::vector<EmbedInput> inputs_;
    std::vector<size_t> read_;  ///< which of them can be opened
    std::vector<std::vector<Row>> rows_;
    std::list<SoundPiece> waiting_;
    size_t waiting_samples_ = 0;
    int64_t layer_count_ = 0;
    double total_ = 0, done_ = 0;  ///< seconds of sound
};

}  // namespace

EmbedResult run_embed(const EmbedOptions& options, const Registry& registry, Progress& progress, const Cancel& cancel) {
    Embedding embedding(options, registry, progress, cancel);
    const CrashContext crash(options.encoder.empty() ? "the encoder" : options.encoder, "embed");
    return embedding.run();
}

}  // namespace biophony
