#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <set>

#include "base/files.hpp"
#include "base/schema.hpp"
#include "learn/encoder.hpp"
#include "learn/features.hpp"
#include "learn/model_files.hpp"
#include "learn/runtime.hpp"
#include "learn/windows.hpp"
#include "measure/sweep.hpp"
#include "plugins/call.hpp"
#include "tasks/arithmetic.hpp"
#include "tasks/node_types.hpp"
#include "tasks/sweep.hpp"
#include "weights/expression.hpp"
#include "weights/finite.hpp"
#include "weights/task_vector.hpp"

namespace biophony {

namespace {

/// Front-end features that are kept in memory, of all sets together.
constexpr uint64_t kMemory = uint64_t{4} << 30;

/// An encoder that goes from point to point: base + Σ λ_m D_m, each D_m = Σ_i d_mi τ_i added once, in float64, and kept
/// as float32.
class MovingEncoder {
public:
    explicit MovingEncoder(TaskContext& context)
        : path_(context.input("base").folder / "encoder.safetensors"),
          encoder_(load_encoder(path_, *context.registry)) {
        const SafetensorsFile base = SafetensorsFile::open(path_);
        const auto hashes = tensor_hashes(base, context.threads);
        std::map<std::string, TaskVector> vectors;
        const std::vector<std::string> names = vector_names(context);
        for (size_t i = 0; i < names.size(); ++i) {
            const TaskVector& vector = vectors
                                           .emplace(names[i], TaskVector::open(context.input_list("vectors")[i].folder /
                                                                               "task_vector.safetensors"))
                                           .first->second;
            vector.check_base(base, hashes);
        }
        std::vector<std::string> coefficients;
        for (const auto& [name, values] : context.params.at("grid").items()) coefficients.push_back(name);
        form_ = parse_expression(context.params.at("expression").get<std::string>(), names, coefficients);

        std::map<std::string, at::Tensor> parameters, buffers;
        for (const auto& item : encoder_.module->named_parameters()) parameters.emplace(item.key(), item.value());
        for (const auto& item : encoder_.module->named_buffers()) buffers.emplace(item.key(), item.value());
        for (const TensorInfo& tensor : base.tensors()) {
            if (!is_merged(tensor, &encoder_.card)) continue;
            context.cancel->check();
            Moving moving;
            bool moves = false;
            std::vector<float> values(tensor.elements());
            for (const auto& [product, terms] : form_) {
                std::vector<double> sum(values.size(), 0.0);
                for (const auto& [name, factor] : terms) {
                    const SafetensorsFile& file = vectors.at(name).file();
                    file.read_floats(file.require(tensor.name), 0, values);
                    for (size_t k = 0; k < values.size(); ++k) sum[k] += factor * static_cast<double>(values[k]);
                }
                at::Tensor direction = at::empty(tensor.shape, at::kFloat);
                for (size_t k = 0; k < sum.size(); ++k) {
                    direction.data_ptr<float>()[k] = static_cast<float>(sum[k]);
                    moves |= sum[k] != 0;
                }
                moving.directions.push_back(std::move(direction));
            }
            if (!moves) continue;
            if (!parameters.contains(tensor.name))
                throw Error(Code::kRunFailed,
                            fmt::format("the vectors change '{}', which is {} of {}; a sweep moves parameters alone, "
                                        "compose takes one value at a time",
                                        tensor.name, buffers.contains(tensor.name) ? "a buffer" : "no parameter",
                                        encoder_.card.encoder));
            moving.target = parameters.at(tensor.name);
            moving.base = moving.target.detach().clone();
            tensors_.push_back(std::move(moving));
        }
    }

    void go(const std::map<std::string, double>& coefficients) {
        std::vector<double> scales;
        for (const auto& [product, terms] : form_) scales.push_back(product_of(product, coefficients));
        for (Moving& tensor : tensors_) {
            at::Tensor sum = tensor.base.to(at::kDouble);
            for (size_t m = 0; m < scales.size(); ++m)
                if (scales[m] != 0) sum.add_(tensor.directions[m].to(at::kDouble), scales[m]);
            tensor.target.copy_(sum);
        }
    }

    LoadedEncoder& encoder() { return encoder_; }

private:
    struct Moving {
        at::Tensor target;  ///< the module's
        at::Tensor base;
        std::vector<at::Tensor> directions;  ///< by the form's products
    };
    std::filesystem::path path_;
    LoadedEncoder encoder_;
    LinearForm form_;
    std::vector<Moving> tensors_;
};

class Sweeping {
public:
    explicit Sweeping(TaskContext& context)
        : context_(context),
          judge_(context.params.at("judge")),
          work_(context.out / "work"),
          moving_(context),
          data_(context.input_list("targets")) {
        for (const InputArtefact& set : context.input_list("controls")) data_.push_back(set);
        sets_ = load_sets(data_);
        targets_ = context.input_list("targets").size();
        std::vector<Split> heard = {Split::kValid};
        if (judge_ != "fixed") heard.push_back(Split::kTrain);
        for (const ClipSet& set : sets_) {
            if (std::none_of(set.clips.begin(), set.clips.end(),
                             [](const Clip& clip) { return clip.split == Split::kValid; }))
                throw Error(Code::kRunFailed,
                            fmt::format("the data set '{}' has no clips in the valid split, on which a sweep chooses",
                                        set.group));
            alone_.push_back({set});
        }
        for (std::vector<ClipSet>& set : alone_) {
            auto& parts = windows_.emplace_back();
            for (const Split split : heard)
                parts.push_back(std::make_unique<WindowFeatures>(
                    set, split, *context.registry, *moving_.encoder().module, *context.progress, *context.cancel,
                    kMemory / (sets_.size() * heard.size())));
        }
    }

    void run() {
        const auto begin = std::chrono::steady_clock::now();
        const Json& params = context_.params;
        Sweep sweep{.expression = params.at("expression"),
                    .goal = params.at("goal"),
                    .judge = judge_,
                    .figure = params.at("figure"),
                    .floor = params.value("floor", kFloor),
                    .points = {}};
        const auto grids = grids_of(params.at("grid"));
        std::map<std::string, double> base;
        for (const auto& [name, values] : grids) base[name] = 0;
        sweep.points.push_back({.coefficients = base});
        for (auto& point : grid_points(grids))
            if (point != base) sweep.points.push_back({.coefficients = std::move(point)});
        for (size_t p = 0; p < sweep.points.size(); ++p) {
            score(sweep.points[p], p);
            std::string line = fmt::format("point {} of {}:", p + 1, sweep.points.size());
            for (const auto* part :
                 {&sweep.points[p].coefficients, &sweep.points[p].targets, &sweep.points[p].controls})
                for (const auto& [name, value] : *part) line += fmt::format(" {} {:.4g}", name, value);
            context_.log(line + " " + sweep.points[p].problem);
        }
        judge_sweep(sweep);
        fs::remove_all(work_);

        const SweepPoint& chosen = sweep.chosen();
        moving_.go(chosen.coefficients);
        save_encoder(moving_.encoder(), context_.out / "encoder.safetensors",
                     {{"biophony.expression", sweep.expression},
                      {"biophony.coefficients", canonical(Json(chosen.coefficients))}});
        write_json(context_.out / "sweep.json", sweep.to_json());
        write_file_atomically(context_.out / "sweep.csv", sweep.to_csv());
        write_file_atomically(context_.out / "sweep.txt", sweep.to_text());
        std::string values;
        for (const auto& [name, value] : chosen.coefficients) values += fmt::format("{} {:.4g}, ", name, value);
        if (sweep.points.front().chosen)
            context_.note("no point of the grid that is allowed does better than the base; the result is the base");
        for (const std::string& name : sweep.at_edge())
            context_.note(
                fmt::format("the chosen {}, {:.4g}, lies at an end of its grid", name, chosen.coefficients.at(name)));
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
        context_.headline = fmt::format("{}targets {:.3f}, at the base {:.3f}; {} points, {:.2f} s each", values,
                                        chosen.target, sweep.points.front().target, sweep.points.size(),
                                        seconds / static_cast<double>(sweep.points.size()));
    }

private:
    /// A node of another type, run here: its result lies in a folder of the work.
    TaskContext part(const std::string& name, const char* type, Json params) {
        TaskContext out;
        out.node = context_.node + ":" + name;
        std::vector<Diagnostic> none;
        apply_schema(node_types().find(type)->parameters, params, "", none);
        out.params = std::move(params);
        out.seed = context_.seed;
        out.threads = context_.threads;
        out.registry = context_.registry;
        out.out = work_ / name;
        fs::create_directories(out.out);
        out.progress = context_.progress;
        out.cancel = context_.cancel;
        // What a head or an evaluation has to say is mostly the same at each point.
        out.note = [this](std::string_view line) {
            if (told_.insert(std::string(line)).second) context_.note(line);
        };
        out.log = [](std::string_view) {};
        return out;
    }

    /// The features of all sets, as features nodes give them, but of the splits that count alone.
    std::vector<InputArtefact> features(const std::string& encoder, bool& finite) {
        Encoder& module = *moving_.encoder().module;
        const EncoderInfo info = module.info();
        std::vector<InputArtefact> out;
        finite = true;
        for (size_t s = 0; s < sets_.size(); ++s) {
            FeatureSet set{.encoder = encoder, .data = data_[s].digest, .bands = info.bands, .width = info.width};
            std::vector<at::Tensor> values;
            for (const auto& windows : windows_[s]) {
                if (windows->windows().empty()) continue;
                values.push_back(embed(module, *windows, context_.params.at("batch"), *context_.progress,
                                       *context_.cancel, Pooling::kBands));
                for (const Window& window : windows->windows()) set.clips.push_back(static_cast<int64_t>(window.clip));
            }
            set.values = at::cat(values);
            finite &= at::isfinite(set.values).all().item<bool>();
            const fs::path folder = work_ / fmt::format("features-{}", s);
            fs::create_directories(folder);
            set.save(folder);
            out.push_back({.node = "features", .type = std::string(port::kFeatures), .folder = folder, .digest = {}});
        }
        return out;
    }

    void score(SweepPoint& point, size_t number) {
        fs::remove_all(work_);
        fs::create_directories(work_);
        const std::string digest = fmt::format("point {}", number);
        moving_.go(point.coefficients);
        bool finite = true;
        const std::vector<InputArtefact> heard = features(digest, finite);
        if (!finite) {
            point.problem = "the encoder gives no finite features";
            return;
        }
        InputArtefact encoder = context_.input("base");  // its file is only handed on
        encoder.digest = digest;
        InputArtefact model{
            .node = context_.node, .type = std::string(port::kHead), .folder = work_ / "head", .digest = digest};
        if (judge_ == "fixed") {
            fs::create_directories(model.folder);
            keep_head(context_.input("head").folder, encoder.folder, digest, model.folder);
        } else {
            Json params = {{"kind", judge_}};
            if (context_.params.contains("pooling")) params["pooling"] = context_.params["pooling"];
            TaskContext head = part("head", "head", std::move(params));
            head.inputs = {{"encoder", {encoder}}, {"data", data_}, {"features", heard}};
            run_head(head);
        }
        TaskContext evaluate = part("score", "evaluate", {{"split", "valid"}, {"row", "point"}});
        evaluate.inputs = {{"model", {model}}, {"data", data_}, {"features", heard}};
        run_evaluate(evaluate);
        const Json groups = read_json(evaluate.out / "metrics.json").at("groups");
        for (size_t s = 0; s < sets_.size(); ++s) {
            const Json& accuracy =
                groups.at(sets_[s].group).at(context_.params.at("figure").get<std::string>()).at("accuracy");
            if (accuracy.is_null())
                throw Error(
                    Code::kRunFailed,
                    fmt::format("no clip of '{}' in the valid split has a label that the head knows", sets_[s].group));
            (s < targets_ ? point.targets : point.controls)[sets_[s].group] = accuracy.get<double>();
        }
    }

    TaskContext& context_;
    const std::string judge_;
    const fs::path work_;
    MovingEncoder moving_;
    std::vector<InputArtefact> data_;  ///< targets, then controls
    std::vector<ClipSet> sets_;
    size_t targets_ = 0;
    std::vector<std::vector<ClipSet>> alone_;                            ///< each set by itself
    std::vector<std::vector<std::unique_ptr<WindowFeatures>>> windows_;  ///< by set, then split
    std::set<std::string> told_;
};

}  // namespace

void run_sweep(TaskContext& context) {
    const at::NoGradGuard no_grad;
    const SafetensorsFile base = SafetensorsFile::open(context.input("base").folder / "encoder.safetensors");
    const CrashContext crash(EncoderCard::from(base).encoder, context.node);
    Sweeping(context).run();
}

}  // namespace biophony
