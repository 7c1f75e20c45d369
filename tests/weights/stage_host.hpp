// A host for one merge stage, in the size of a test: tensors in memory, tiles and observing states cut as the test
// wants, keys from a seed, linear algebra by Jacobi's method. It follows biophony/c/merger.h and shares no code with
// the engine.
#pragma once

#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "base/json.hpp"
#include "base/random.hpp"
#include "base/schema.hpp"
#include "biophony/c/merger.h"
#include "plugins/call.hpp"

namespace biophony::test {

/// One tensor as all experts have it.
struct StageTensor {
    std::string name, role;
    std::vector<uint64_t> shape;
    std::vector<std::vector<float>> experts;
    int32_t block = -1;
    std::vector<std::vector<float>> sources = {};  ///< for post stages that need the experts; none = what comes in

    uint64_t size() const {
        return std::accumulate(shape.begin(), shape.end(), uint64_t{1}, [](uint64_t a, uint64_t b) { return a * b; });
    }
};

/// Thin singular value decomposition by rotations of pairs of columns (Hestenes 1958). Vectors of singular values that
/// are exactly 0 stay 0.
inline void jacobi_svd(size_t m, size_t n, const double* a, double* u, double* s, double* vt) {
    const bool wide = m < n;
    const size_t rows = wide ? n : m, columns = wide ? m : n;
    std::vector<std::vector<double>> w(columns, std::vector<double>(rows)), v(columns, std::vector<double>(columns));
    for (size_t c = 0; c < columns; ++c) {
        for (size_t r = 0; r < rows; ++r) w[c][r] = wide ? a[c * n + r] : a[r * n + c];
        v[c][c] = 1;
    }
    const auto dot = [](const std::vector<double>& x, const std::vector<double>& y) {
        return std::inner_product(x.begin(), x.end(), y.begin(), 0.0);
    };
    bool turned = true;
    for (int sweep = 0; turned && sweep < 60; ++sweep) {
        turned = false;
        for (size_t p = 0; p < columns; ++p)
            for (size_t q = p + 1; q < columns; ++q) {
                const double alpha = dot(w[p], w[p]), beta = dot(w[q], w[q]), gamma = dot(w[p], w[q]);
                if (std::fabs(gamma) <= 1e-15 * std::sqrt(alpha * beta)) continue;
                turned = true;
                const double zeta = (beta - alpha) / (2 * gamma);
                const double t = (zeta < 0 ? -1 : 1) / (std::fabs(zeta) + std::sqrt(1 + zeta * zeta));
                const double cosine = 1 / std::sqrt(1 + t * t), sine = cosine * t;
                for (auto* of : {&w, &v})
                    for (size_t r = 0; r < (*of)[p].size(); ++r) {
                        const double x = (*of)[p][r], y = (*of)[q][r];
                        (*of)[p][r] = cosine * x - sine * y;
                        (*of)[q][r] = sine * x + cosine * y;
                    }
            }
    }
    std::vector<size_t> order(columns);
    std::iota(order.begin(), order.end(), size_t{0});
    std::vector<double> norms;
    for (const auto& column : w) norms.push_back(std::sqrt(dot(column, column)));
    std::sort(order.begin(), order.end(), [&](size_t x, size_t y) { return norms[x] > norms[y]; });
    for (size_t j = 0; j < columns; ++j) {
        const size_t from = order[j];
        s[j] = norms[from];
        for (size_t r = 0; r < rows; ++r) {
            const double value = s[j] > 0 ? w[from][r] / s[j] : 0;
            (wide ? vt[j * n + r] : u[r * columns + j]) = value;
        }
        for (size_t r = 0; r < columns; ++r) (wide ? u[r * columns + j] : vt[j * n + r]) = v[from][r];
    }
}

inline const bph_linalg_v0& small_linalg() {
    static const bph_linalg_v0 table = {
        sizeof(bph_linalg_v0), 0,
        [](const bph_call*, uint64_t m, uint64_t n, const double* a, double* u, double* s, double* vt) -> bph_status {
            jacobi_svd(m, n, a, u, s, vt);
            return BPH_OK;
        },
        nullptr,
        [](const bph_call*, uint64_t m, uint64_t n, uint64_t k, const double* a, int32_t ta, const double* b,
           int32_t tb, double* c) -> bph_status {
            for (uint64_t i = 0; i < m; ++i)
                for (uint64_t j = 0; j < n; ++j) {
                    double sum = 0;
                    for (uint64_t l = 0; l < k; ++l)
                        sum += (ta != 0 ? a[l * m + i] : a[i * k + l]) * (tb != 0 ? b[j * k + l] : b[l * n + j]);
                    c[i * n + j] = sum;
                }
            return BPH_OK;
        }};
    return table;
}

/// How the host's work is cut; a stage may not notice.
struct Cuts {
    std::vector<size_t> tiles = {1000000};  ///< sizes, again and again
    size_t states = 1;                      ///< that observe
    uint64_t seed = 1;
};

/// An instance of a stage. run() may be called by several threads.
class StageHost {
public:
    StageHost(Json item, const bph_merger_v0& table, const Json& params) : about_(item.at("merger")), table_(table) {
        const PluginCall call("merger:" + item.at("id").get<std::string>());
        const std::string text = params.dump();
        call.check(table_.create(call.get(), {text.data(), text.size()}, &self_));
    }
    ~StageHost() { table_.destroy(self_); }
    StageHost(const StageHost&) = delete;
    StageHost& operator=(const StageHost&) = delete;

    /// One expert for combine and post, as many as before for a transform.
    std::vector<StageTensor> run(const std::vector<StageTensor>& in, const Cuts& cuts = {}) const {
        Run run{*this, in, in, cuts, {}};
        return run.run();
    }
    /// "0 message" of all calls, the level first.
    std::vector<std::string> log() const {
        const std::lock_guard lock(mutex_);
        return log_;
    }

private:
    struct Piece {
        size_t tensor, offset, count;
    };
    struct Run {
        const StageHost& host;
        const std::vector<StageTensor>& in;
        std::vector<StageTensor> out;
        const Cuts& cuts;
        std::vector<void*> observed;  ///< of each pass
        std::vector<void*> states;    ///< of the pass that goes on

        ~Run() {  // also where a stage refused
            for (const auto* list : {&observed, &states})
                for (void* state : *list)
                    if (state != nullptr) host.table_.observe_destroy(state);
        }

        bool transform() const { return host.about_.at("stage") == "transform"; }
        bool all() const { return host.about_.value("experts", Json()) == "all"; }
        size_t experts() const { return in.at(0).experts.size(); }

        std::vector<StageTensor> run() {
            const std::string scope = host.about_.at("scope");
            const size_t results = transform() ? experts() : 1;
            for (StageTensor& tensor : out)
                tensor.experts.assign(results,
                                      std::vector<float>(tensor.size(), std::numeric_limits<float>::quiet_NaN()));
            const std::vector<Piece> pieces = cut(scope == "tensor");
            if (scope == "global")
                for (uint32_t pass = 0; pass < host.about_.value("observe", 1U); ++pass) observe(pass, pieces);
            const Json roles = host.about_.value("roles", Json{"matrix"});
            for (size_t t = 0; t < in.size(); ++t)
                if (scope == "matrix" && std::find(roles.begin(), roles.end(), in[t].role) != roles.end())
                    write({t, 0, in[t].size()}, true);
            for (const Piece& piece : pieces)
                if (scope != "matrix" || std::find(roles.begin(), roles.end(), in[piece.tensor].role) == roles.end())
                    write(piece, false);
            return std::move(out);
        }

        std::vector<Piece> cut(bool whole) const {
            std::vector<Piece> pieces;
            size_t turn = 0;
            for (size_t t = 0; t < in.size(); ++t)
                for (size_t at = 0; at < in[t].size();) {
                    const size_t most = whole ? in[t].size() : cuts.tiles[turn++ % cuts.tiles.size()];
                    pieces.push_back({t, at, std::min<size_t>(most, in[t].size() - at)});
                    at += pieces.back().count;
                }
            return pieces;
        }

        /// Calls `use` with the tiles of a piece: one, or one per expert.
        template <class Use>
        void tiles(const Piece& piece, bool matrix, bool writes, Use&& use) {
            const StageTensor& tensor = in[piece.tensor];
            const bool one_by_one = transform() && !all();
            for (size_t first = 0; first < experts(); first += one_by_one ? 1 : experts()) {
                const size_t count = one_by_one ? 1 : experts();
                std::vector<const float*> inputs;
                std::vector<float*> outputs;
                std::vector<uint64_t> keys;
                std::vector<const float*> sources;
                for (const auto& source : tensor.sources.empty() ? tensor.experts : tensor.sources)
                    sources.push_back(source.data() + piece.offset);
                int32_t blocks = 0;
                for (const StageTensor& other : in) blocks = std::max(blocks, other.block + 1);
                for (size_t i = first; i < first + count; ++i) {
                    inputs.push_back(tensor.experts[i].data() + piece.offset);
                    if (all()) outputs.push_back(out[piece.tensor].experts[i].data() + piece.offset);
                    keys.push_back(mix(mix(cuts.seed, piece.tensor), i));
                }
                std::vector<uint64_t> shape = tensor.shape;
                if (matrix) shape = {tensor.shape[0], tensor.size() / tensor.shape[0]};
                std::vector<double> norms;
                for (size_t i = first; i < first + count; ++i) {
                    double squares = 0;
                    for (const StageTensor& other : in)
                        for (const float value : other.experts[i]) squares += static_cast<double>(value) * value;
                    norms.push_back(std::sqrt(squares));
                }
                const std::vector<float> base(piece.count, 0.5F);
                const bph_merge_tile tile = {
                    .struct_size = sizeof(tile),
                    .expert_count = static_cast<uint32_t>(count),
                    .tensor = {tensor.name.data(), tensor.name.size()},
                    .role = {tensor.role.data(), tensor.role.size()},
                    .block = tensor.block,
                    .expert_index = static_cast<uint32_t>(first),
                    .offset = piece.offset,
                    .count = piece.count,
                    .experts = inputs.data(),
                    .base = host.needs("base") ? base.data() : nullptr,
                    .out = !writes || all() ? nullptr : out[piece.tensor].experts[first].data() + piece.offset,
                    .outs = writes && all() ? outputs.data() : nullptr,
                    .keys = host.about_.value("random", false) ? keys.data() : nullptr,
                    .shape = shape.data(),
                    .rank = static_cast<uint32_t>(shape.size()),
                    .reserved = 0,
                    .observed = !writes || observed.empty() ? nullptr : observed.back(),
                    .linalg = host.needs("linalg") ? &small_linalg() : nullptr,
                    .sources = host.needs("experts") ? sources.data() : nullptr,
                    .source_count = host.needs("experts") ? static_cast<uint32_t>(sources.size()) : 0,
                    .block_count = static_cast<uint32_t>(blocks),
                    .norms = host.needs("norms") ? norms.data() : nullptr};
                use(tile);
            }
        }

        void observe(uint32_t pass, const std::vector<Piece>& pieces) {
            const auto call = host.call();
            const void* earlier = observed.empty() ? nullptr : observed.back();
            states.assign(cuts.states, nullptr);
            for (size_t s = 0; s < states.size(); ++s) {
                call->check(host.table_.observe_begin(call->get(), host.self_, pass, static_cast<uint32_t>(experts()),
                                                      earlier, &states[s]));
                for (size_t p = pieces.size() * s / states.size(); p < pieces.size() * (s + 1) / states.size(); ++p)
                    tiles(pieces[p], false, false, [&](const bph_merge_tile& tile) {
                        call->check(host.table_.observe(call->get(), host.self_, states[s], &tile));
                    });
            }
            for (size_t s = 1; s < states.size(); ++s) {
                call->check(host.table_.observe_join(call->get(), host.self_, states[0], states[s]));
                host.table_.observe_destroy(std::exchange(states[s], nullptr));
            }
            call->check(host.table_.observe_end(call->get(), host.self_, states[0]));
            observed.push_back(std::exchange(states[0], nullptr));
        }

        void write(const Piece& piece, bool matrix) {
            const auto call = host.call();
            tiles(piece, matrix, true, [&](const bph_merge_tile& tile) {
                call->check((matrix ? host.table_.matrix : host.table_.element)(call->get(), host.self_, &tile));
            });
        }
    };

    bool needs(const char* what) const {
        const Json needs = about_.value("needs", Json::array());
        return std::find(needs.begin(), needs.end(), what) != needs.end();
    }
    std::unique_ptr<PluginCall> call() const {
        return std::make_unique<PluginCall>("merger", CallOptions{.log = [this](int level, std::string_view message) {
                                                const std::lock_guard lock(mutex_);
                                                log_.push_back(std::to_string(level) + " " + std::string(message));
                                            }});
    }

    Json about_;
    const bph_merger_v0& table_;
    void* self_ = nullptr;
    mutable std::mutex mutex_;
    mutable std::vector<std::string> log_;
};

/// The merge plugins of the build folder, opened by hand.
class StagePlugins {
public:
    static const StagePlugins& get() {
        static const StagePlugins plugins;
        return plugins;
    }
    std::unique_ptr<StageHost> stage(const std::string& id, Json params = Json::object()) const {
        const Item& item = items_.at(id);
        fill(item, params);
        return std::make_unique<StageHost>(item.manifest, *item.table, params);
    }
    /// Runs a stage, or all stages of a preset.
    std::vector<StageTensor> run(const std::string& id, std::vector<StageTensor> tensors, Json params = Json::object(),
                                 const Cuts& cuts = {}) const {
        const Json merger = items_.at(id).manifest.at("merger");
        if (!merger.contains("preset")) return stage(id, params)->run(tensors, cuts);
        fill(items_.at(id), params);
        for (const Json& part : merger.at("preset")) {
            Json with = part.value("with", Json::object());
            for (auto value = with.begin(); value != with.end();) {
                const auto own = value->is_object() ? params.find(value->at("parameter").get<std::string>()) : value;
                if (value->is_object() && own != params.end()) *value = *own;
                value = value->is_object() ? with.erase(value) : std::next(value);  // not given
            }
            tensors = run(part.at("use").get<std::string>().substr(7), tensors, with, cuts);
        }
        return tensors;
    }
    /// What is wrong with parameters.
    std::vector<Diagnostic> problems(const std::string& id, Json params) const {
        std::vector<Diagnostic> problems;
        apply_schema(items_.at(id).manifest.at("parameters"), params, "/with", problems);
        return problems;
    }
    std::vector<std::string> ids() const {
        std::vector<std::string> out;
        for (const auto& [id, item] : items_) out.push_back(id);
        return out;
    }
    const Json& manifest(const std::string& id) const { return items_.at(id).manifest; }

private:
    struct Item {
        Json manifest;
        const bph_merger_v0* table;
    };

    StagePlugins() {
        for (const auto& file : std::filesystem::directory_iterator(std::filesystem::path(BPH_BUILD_DIR) / "plugins")) {
            const auto& path = file.path();
            if (!path.filename().string().starts_with("merger-") || path.extension() != ".so") continue;
            void* const handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
            if (handle == nullptr) throw std::runtime_error(::dlerror());
            const bph_host host = {sizeof(host), BPH_SPINE_VERSION, {}, nullptr};
            const auto* plugin = reinterpret_cast<bph_entry_function>(::dlsym(handle, BPH_ENTRY_NAME))(&host);
            const Json manifest = Json::parse(std::string_view(plugin->manifest.data, plugin->manifest.size));
            for (const Json& item : manifest.at("items")) {
                const std::string id = item.at("id");
                items_[id] = {item, static_cast<const bph_merger_v0*>(plugin->get_interface(
                                        {id.data(), id.size()}, {BPH_MERGER_V0, sizeof(BPH_MERGER_V0) - 1}))};
            }
        }
    }
    static void fill(const Item& item, Json& params) {
        std::vector<Diagnostic> problems;
        apply_schema(item.manifest.at("parameters"), params, "", problems);
        for (const Diagnostic& problem : problems) throw std::runtime_error(problem.text());
    }
    std::map<std::string, Item> items_;
};

/// Experts of odd shapes: a scalar, a row, a column, a matrix, four dimensions, and nothing at all.
inline std::vector<StageTensor> odd_tensors(size_t experts, uint64_t seed = 3) {
    std::vector<StageTensor> tensors = {{"scalar", "bias", {}, {}},
                                        {"row", "matrix", {1, 7}, {}},
                                        {"column", "matrix", {9, 1}, {}},
                                        {"matrix", "matrix", {11, 6}, {}},
                                        {"empty", "bias", {0}, {}},
                                        {"wide", "matrix", {5, 17}, {}},
                                        {"kernel", "convolution", {2, 3, 2, 2}, {}}};
    Random random(seed);
    for (StageTensor& tensor : tensors)
        for (size_t i = 0; i < experts; ++i) {
            tensor.experts.emplace_back();
            for (uint64_t k = 0; k < tensor.size(); ++k)
                tensor.experts.back().push_back(static_cast<float>(0.01 * random.normal()));
        }
    return tensors;
}

inline std::vector<StageTensor> one_tensor(std::vector<std::vector<float>> experts, std::vector<uint64_t> shape = {}) {
    if (shape.empty()) shape = {experts[0].size()};
    return {{"w", shape.size() == 2 ? "matrix" : "bias", std::move(shape), std::move(experts)}};
}

inline bool same_bits(const std::vector<StageTensor>& a, const std::vector<StageTensor>& b) {
    for (size_t t = 0; t < a.size(); ++t)
        for (size_t i = 0; i < a[t].experts.size(); ++i)
            if (a[t].experts[i].size() != b[t].experts[i].size() ||
                !std::equal(a[t].experts[i].begin(), a[t].experts[i].end(), b[t].experts[i].begin(),
                            [](float x, float y) { return std::memcmp(&x, &y, sizeof(x)) == 0; }))
                return false;
    return a.size() == b.size();
}

/// Largest difference between the first experts.
inline double distance(const std::vector<StageTensor>& a, const std::vector<StageTensor>& b) {
    double worst = 0;
    for (size_t t = 0; t < a.size(); ++t)
        for (size_t k = 0; k < a[t].experts[0].size(); ++k) {
            const double step = std::fabs(static_cast<double>(a[t].experts[0][k]) - b[t].experts[0][k]);
            worst = std::isnan(step) ? std::numeric_limits<double>::infinity() : std::max(worst, step);
        }
    return worst;
}

inline std::vector<StageTensor> scaled(std::vector<StageTensor> tensors, float by) {
    for (StageTensor& tensor : tensors)
        for (auto& expert : tensor.experts)
            for (float& value : expert) value *= by;
    return tensors;
}

inline std::vector<StageTensor> reversed(std::vector<StageTensor> tensors) {
    for (StageTensor& tensor : tensors) std::reverse(tensor.experts.begin(), tensor.experts.end());
    return tensors;
}

}  // namespace biophony::test
