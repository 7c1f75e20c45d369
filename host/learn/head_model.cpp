#include "learn/head_model.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/logaddexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>

#include "base/json.hpp"
#include "weights/safetensors.hpp"

namespace biophony {

namespace {

constexpr double kNone = -std::numeric_limits<double>::infinity();

/// Calls one of several functions for what a variant holds.
template <class... F>
struct Overloaded : F... {
    using F::operator()...;
};

void check_width(const at::Tensor& features, int64_t width) {
    if (features.size(1) != width)
        throw Error(Code::kRunFailed,
                    fmt::format("found features of width {}, expected {}: the head was made for an encoder, or a "
                                "pooling, of another width",
                                features.size(1), width));
}

at::Tensor part_scores(const LinearPart& part, const HeadModel::Read& read) {
    const at::Tensor features = read(part.encoder, part.pooling);
    check_width(features, part.weight.size(1));
    return at::matmul(features.to(at::kDouble), part.weight.to(at::kDouble).t()) + part.bias.to(at::kDouble);
}

at::Tensor unit_rows(const at::Tensor& vectors) {
    return vectors / vectors.norm(2, 1, true).clamp_min(std::numeric_limits<double>::min());
}

at::Tensor neighbours_scores(const NeighboursModel& model, at::Tensor features, int64_t classes) {
    check_width(features, model.vectors.size(1));
    features = unit_rows(features.to(at::kDouble));
    const at::Tensor cosine = at::matmul(features, model.vectors.to(at::kDouble).t()).contiguous();
    at::Tensor out = at::zeros({features.size(0), classes}, at::kDouble);
    auto cells = out.accessor<double, 2>();
    const auto near = cosine.accessor<double, 2>();
    std::vector<int64_t> order(model.classes.size());
    const auto k = std::min<int64_t>(model.k, static_cast<int64_t>(order.size()));
    for (int64_t i = 0; i < features.size(0); ++i) {
        std::iota(order.begin(), order.end(), int64_t{0});
        std::partial_sort(order.begin(), order.begin() + k, order.end(), [&](int64_t a, int64_t b) {
            return near[i][a] != near[i][b] ? near[i][a] > near[i][b] : a < b;
        });
        for (int64_t n = 0; n < k; ++n) {
            const int64_t at = order[static_cast<size_t>(n)];
            cells[i][model.classes[static_cast<size_t>(at)]] += (1 + near[i][at]) / 2;
        }
    }
    return out;
}

/// Columns of `all` that a part's scores belong to are replaced by `join`(column, scores).
template <class Join>
void join_columns(at::Tensor& all, const LinearPart& part, const at::Tensor& scores, Join&& join) {
    for (size_t k = 0; k < part.classes.size(); ++k) {
        at::Tensor column = all.select(1, part.classes[k]);
        column.copy_(join(column, scores.select(1, static_cast<int64_t>(k))));
    }
}

at::Tensor side_by_side_scores(const SideBySideModel& model, const HeadModel::Read& read, int64_t classes) {
    at::Tensor out;
    at::Tensor count = at::zeros({classes}, at::kDouble);
    for (const LinearPart& part : model.parts) {
        const at::Tensor scores = part_scores(part, read);
        if (!out.defined()) out = at::full({scores.size(0), classes}, model.mean ? 0.0 : kNone, at::kDouble);
        join_columns(out, part, scores,
                     [&](const at::Tensor& a, const at::Tensor& b) { return model.mean ? a + b : at::maximum(a, b); });
        for (const int64_t c : part.classes) count[c] += 1;
    }
    return model.mean ? out / count : out;
}

at::Tensor gated_scores(const GatedModel& model, const HeadModel::Read& read, int64_t classes) {
    const at::Tensor gate = at::log_softmax(part_scores(model.gate, read), 1);
    at::Tensor out = at::full({gate.size(0), classes}, kNone, at::kDouble);
    for (size_t p = 0; p < model.parts.size(); ++p) {
        const at::Tensor scores = at::log_softmax(part_scores(model.parts[p], read), 1) +
                                  gate.select(1, static_cast<int64_t>(p)).unsqueeze(1);
        join_columns(out, model.parts[p], scores,
                     [&](const at::Tensor& a, const at::Tensor& b) { return at::logaddexp(a, b); });
    }
    return out;
}

/// Collects what a head file holds.
class Writer {
public:
    void add(const std::string& name, const at::Tensor& tensor) { tensors_.emplace_back(name, tensor.contiguous()); }
    Json add_part(const std::string& prefix, const LinearPart& part) {
        add(prefix + "weight", part.weight);
        add(prefix + "bias", part.bias);
        return {{"encoder", part.encoder}, {"pooling", to_string(part.pooling)}, {"classes", part.classes}};
    }
    Json add_parts(const std::vector<LinearPart>& parts) {
        Json out = Json::array();
        for (size_t p = 0; p < parts.size(); ++p) out.push_back(add_part(fmt::format("parts.{}.", p), parts[p]));
        return out;
    }
    void write(const std::filesystem::path& file, const Json& card) const {
        std::vector<SafetensorsWriter::Tensor> announced;
        for (const auto& [name, tensor] : tensors_)
            announced.push_back(
                {name, tensor.scalar_type() == at::kDouble ? DType::kF64 : DType::kF32, tensor.sizes().vec()});
        SafetensorsWriter writer(file, announced, {{"biophony.format", "head/0"}, {"biophony.head", canonical(card)}});
        for (const auto& [name, tensor] : tensors_)
            writer.write(name, 0, {static_cast<const std::byte*>(tensor.data_ptr()), tensor.nbytes()});
        writer.finish();
    }

private:
    std::vector<std::pair<std::string, at::Tensor>> tensors_;
};

class Reader {
public:
    explicit Reader(const std::filesystem::path& path) : file_(SafetensorsFile::open(path)) {}
    const SafetensorsFile& file() const { return file_; }
    [[noreturn]] void wrong(const std::string& message) const {
        throw Error(Code::kRunFailed, message, {.file = file_.path().string()});
    }
    /// A tensor of this many dimensions.
    at::Tensor tensor(const std::string& name, size_t dimensions) const {
        const TensorInfo& info = file_.require(name);
        if ((info.dtype != DType::kF64 && info.dtype != DType::kF32) || info.shape.size() != dimensions)
            wrong(fmt::format("the tensor '{}' has another type or number of dimensions than expected, {} of floats",
                              name, dimensions));
        at::Tensor values = at::empty(info.shape, info.dtype == DType::kF64 ? at::kDouble : at::kFloat);
        file_.read(info, 0, {static_cast<std::byte*>(values.data_ptr()), values.nbytes()});
        return values;
    }
    LinearPart part(const std::string& prefix, const Json& card, size_t classes) const {
        LinearPart out{.weight = tensor(prefix + "weight", 2),
                       .bias = tensor(prefix + "bias", 1),
                       .pooling = pooling_from(card.value("pooling", "mean")),
                       .encoder = card.value("encoder", size_t{0}),
                       .classes = {}};
        if (card.contains("classes"))
            out.classes = card["classes"].get<std::vector<int64_t>>();
        else
            for (size_t c = 0; c < classes; ++c) out.classes.push_back(static_cast<int64_t>(c));
        const auto rows = static_cast<int64_t>(out.classes.size());
        if (out.weight.size(0) != rows || out.bias.size(0) != rows)
            wrong(fmt::format("'{}weight' and '{}bias' have {} and {} rows, expected {}, one for each class", prefix,
                              prefix, out.weight.size(0), out.bias.size(0), rows));
        check_classes(out.classes, classes);
        return out;
    }
    std::vector<LinearPart> parts(const Json& card, size_t classes) const {
        std::vector<LinearPart> out;
        for (size_t p = 0; p < card.at("parts").size(); ++p)
            out.push_back(part(fmt::format("parts.{}.", p), card["parts"][p], classes));
        if (out.empty()) wrong("the head has no parts");
        return out;
    }
    void check_classes(const std::vector<int64_t>& classes, size_t count) const {
        for (const int64_t c : classes)
            if (c < 0 || c >= static_cast<int64_t>(count))
                wrong(fmt::format("found the class {}, expected 0 to {}", c, count - 1));
    }

private:
    SafetensorsFile file_;
};

}  // namespace

at::Tensor HeadModel::scores(const Read& read) const {
    const auto classes = static_cast<int64_t>(labels.size());
    return std::visit(
               Overloaded{
                   [&](const LinearModel& model) { return part_scores(model.part, read); },
                   [&](const CosineModel& model) {
                       const at::Tensor features = read(0, pooling);
                       check_width(features, model.prototypes.size(1));
                       const at::Tensor standard = (features.to(at::kDouble) - model.mean) * model.inverse;
                       return at::matmul(unit_rows(standard), unit_rows(model.prototypes).t());
                   },
                   [&](const NeighboursModel& model) { return neighbours_scores(model, read(0, pooling), classes); },
                   [&](const SideBySideModel& model) { return side_by_side_scores(model, read, classes); },
                   [&](const GatedModel& model) { return gated_scores(model, read, classes); }},
               form)
        .contiguous();
}

void HeadModel::save(const std::filesystem::path& file) const {
    Writer writer;
    Json card = {{"kind", name},   {"labels", labels},           {"groups", groups},
                 {"sends", sends}, {"pools_clips", pools_clips}, {"pooling", to_string(pooling)}};
    std::visit(Overloaded{[&](const LinearModel& model) {
                              card["form"] = "linear";
                              writer.add_part("", model.part);
                              card["pooling"] = to_string(model.part.pooling);
                          },
                          [&](const CosineModel& model) {
                              card["form"] = "cosine";
                              writer.add("prototypes", model.prototypes);
                              writer.add("mean", model.mean);
                              writer.add("inverse", model.inverse);
                          },
                          [&](const NeighboursModel& model) {
                              card["form"] = "neighbours";
                              card["k"] = model.k;
                              card["classes"] = model.classes;
                              writer.add("vectors", model.vectors);
                          },
                          [&](const SideBySideModel& model) {
                              card["form"] = "side_by_side";
                              card["shared"] = model.mean ? "mean" : "max";
                              card["parts"] = writer.add_parts(model.parts);
                          },
                          [&](const GatedModel& model) {
                              card["form"] = "gated";
                              card["gate"] = writer.add_part("gate.", model.gate);
                              card["parts"] = writer.add_parts(model.parts);
                          }},
               form);
    writer.write(file, card);
}

HeadModel HeadModel::load(const std::filesystem::path& file) {
    const Reader reader(file);
    const Json card = Json::parse(reader.file().metadata("biophony.head"), nullptr, false);
    if (!card.is_object()) reader.wrong("is no head file: it lacks the metadata 'biophony.head'");
    HeadModel out;
    out.name = card.at("kind");
    out.labels = card.at("labels").get<std::vector<std::string>>();
    out.groups = card.at("groups").get<std::vector<std::string>>();
    // A head that was trained with its encoder says nothing: who trained on several groups had their clips.
    out.pools_clips = card.value("pools_clips", out.groups.size() > 1);
    out.sends = card.value("sends", out.pools_clips ? "clips" : "");
    out.pooling = pooling_from(card.value("pooling", "mean"));
    const std::string form = card.value("form", "linear");
    const size_t classes = out.labels.size();
    if (form == "linear") {
        out.form = LinearModel{reader.part("", {{"pooling", to_string(out.pooling)}}, classes)};
    } else if (form == "cosine") {
        CosineModel model{reader.tensor("prototypes", 2), reader.tensor("mean", 1), reader.tensor("inverse", 1)};
        if (model.prototypes.size(0) != static_cast<int64_t>(classes) ||
            model.mean.size(0) != model.prototypes.size(1) || model.inverse.size(0) != model.prototypes.size(1))
            reader.wrong("'prototypes', 'mean' and 'inverse' don't fit each other");
        out.form = std::move(model);
    } else if (form == "neighbours") {
        NeighboursModel model{reader.tensor("vectors", 2), card.at("classes").get<std::vector<int64_t>>(),
                              card.at("k").get<int64_t>()};
        if (model.vectors.size(0) != static_cast<int64_t>(model.classes.size()) || model.k < 1)
            reader.wrong("'vectors' and their classes don't fit each other");
        reader.check_classes(model.classes, classes);
        out.form = std::move(model);
    } else if (form == "side_by_side") {
        out.form = SideBySideModel{reader.parts(card, classes), card.at("shared") == "mean"};
    } else if (form == "gated") {
        std::vector<LinearPart> parts = reader.parts(card, classes);
        out.form = GatedModel{reader.part("gate.", card.at("gate"), parts.size()), std::move(parts)};
    } else {
        reader.wrong(
            fmt::format("found a head of the form '{}', expected linear, cosine, neighbours, side_by_side or "
                        "gated",
                        form));
    }
    return out;
}

}  // namespace biophony
