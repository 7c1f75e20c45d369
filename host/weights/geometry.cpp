#include "weights/geometry.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <exception>
#include <limits>
#include <numbers>
#include <thread>

#include "base/csv.hpp"
#include "weights/finite.hpp"
#include "weights/task_vector.hpp"

namespace biophony {

namespace {

/// Elements that one thread sums at a time.
constexpr uint64_t kBlock = 1 << 20;
/// Below this mean agreement a majority of signs is hardly more than a toss: a correlation of 0.063 gives 0.52.
constexpr double kChanceAgreement = 0.52;
/// From this ratio on the smallest vector has less than a ninth of the largest one's energy.
constexpr double kNormRatio = 3;
/// Share of the mean that Model Stock keeps, below which its result is the base but for a little.
constexpr double kLittle = 0.2;

/// Sums in eight chains, which the compiler can keep in registers; their order is fixed. `absolute` gets the sum of the
/// magnitudes.
template <class Term>
double sum_of(size_t count, Term&& term, double* absolute = nullptr) {
    std::array<double, 8> sums{}, sizes{};
    size_t k = 0;
    for (; k + 8 <= count; k += 8)
        for (size_t c = 0; c < 8; ++c) {
            const double value = term(k + c);
            sums[c] += value;
            sizes[c] += std::abs(value);
        }
    for (size_t c = 0; k < count; ++k, ++c) {
        const double value = term(k);
        sums[c] += value;
        sizes[c] += std::abs(value);
    }
    auto all = [](const std::array<double, 8>& s) {
        return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
    };
    if (absolute != nullptr) *absolute = all(sizes);
    return all(sums);
}

double mean_over_pairs(const Geometry::Part& part, double PairGeometry::*figure) {
    if (part.pairs.empty()) return std::numeric_limits<double>::quiet_NaN();
    double sum = 0;
    for (const PairGeometry& pair : part.pairs) sum += pair.*figure;
    return sum / static_cast<double>(part.pairs.size());
}

Json number(double value) {
    return std::isfinite(value) ? Json(value) : Json(nullptr);
}

/// Calls each(i, j, place in the list of pairs).
template <class Each>
void for_pairs(size_t count, Each&& each) {
    size_t at = 0;
    for (size_t i = 0; i < count; ++i)
        for (size_t j = i + 1; j < count; ++j) each(i, j, at++);
}

}  // namespace

void GeometrySums::see(size_t tensor, std::span<const float* const> vectors, size_t count) {
    Tensor& sums = tensors_[tensor];
    if (sums.squares.empty()) {
        sums.squares.resize(vectors_);
        sums.absolute.resize(vectors_);
        sums.pairs.resize(vectors_ * (vectors_ - 1) / 2);
        wide_.resize(vectors_, std::vector<double>(kPiece));
    }
    for (size_t i = 0; i < vectors_; ++i) {
        std::copy_n(vectors[i], count, wide_[i].begin());
        const double* a = wide_[i].data();
        double absolute = 0;
        sums.squares[i] += sum_of(count, [a](size_t k) { return a[k] * a[k]; });
        static_cast<void>(sum_of(
            count, [a](size_t k) { return a[k]; }, &absolute));
        sums.absolute[i] += absolute;
    }
    for_pairs(vectors_, [&](size_t i, size_t j, size_t at) {
        Pair& pair = sums.pairs[at];
        const double *a = wide_[i].data(), *b = wide_[j].data();
        double magnitude = 0;
        pair.dot += sum_of(
            count, [a, b](size_t k) { return a[k] * b[k]; }, &magnitude);
        pair.magnitude += magnitude;
        const float *x = vectors[i], *y = vectors[j];
        uint32_t agree = 0, both = 0;
        for (size_t k = 0; k < count; ++k) {
            const uint32_t p = std::bit_cast<uint32_t>(x[k]), q = std::bit_cast<uint32_t>(y[k]);
            const uint32_t set = static_cast<uint32_t>((p << 1) != 0) & static_cast<uint32_t>((q << 1) != 0);
            both += set;
            agree += set & (((p ^ q) >> 31) ^ 1U);
        }
        pair.agree += agree;
        pair.both += both;
    });
}

void GeometrySums::join(const GeometrySums& later) {
    for (const auto& [tensor, other] : later.tensors_) {
        const auto [found, added] = tensors_.try_emplace(tensor, other);
        if (added) continue;
        Tensor& own = found->second;
        for (size_t i = 0; i < own.squares.size(); ++i) {
            own.squares[i] += other.squares[i];
            own.absolute[i] += other.absolute[i];
        }
        for (size_t p = 0; p < own.pairs.size(); ++p) {
            own.pairs[p].dot += other.pairs[p].dot;
            own.pairs[p].magnitude += other.pairs[p].magnitude;
            own.pairs[p].agree += other.pairs[p].agree;
            own.pairs[p].both += other.pairs[p].both;
        }
    }
}

Geometry::Geometry(std::vector<std::string> names, const std::vector<GeometryTensor>& tensors, const GeometrySums& sums)
    : names_(std::move(names)) {
    auto part_of = [&](const std::vector<size_t>& which) {
        Part part;
        part.norms.resize(names_.size());
        part.pairs.resize(names_.size() * (names_.size() - 1) / 2);
        for (const size_t t : which) {
            part.elements += tensors[t].elements;
            for (size_t i = 0; i < names_.size(); ++i) part.norms[i] += sums.tensors_.at(t).squares[i];
        }
        for (double& norm : part.norms) norm = std::sqrt(norm);
        for_pairs(names_.size(), [&](size_t i, size_t j, size_t at) {
            double dot = 0, variance = 0, magnitude = 0, independent = 0, agree = 0, both = 0, expected = 0;
            for (const size_t t : which) {
                const GeometrySums::Tensor& tensor = sums.tensors_.at(t);
                const GeometrySums::Pair& pair = tensor.pairs[at];
                const auto n = static_cast<double>(tensors[t].elements), counted = static_cast<double>(pair.both);
                const double product = tensor.squares[i] * tensor.squares[j];
                dot += pair.dot;
                magnitude += pair.magnitude;
                variance += product / n;
                independent += tensor.absolute[i] * tensor.absolute[j] / n;
                agree += static_cast<double>(pair.agree);
                both += counted;
                if (product > 0) {
                    const double cosine = std::clamp(pair.dot / std::sqrt(product), -1.0, 1.0);
                    expected += counted * (0.5 + std::asin(cosine) / std::numbers::pi);
                }
            }
            const double product = part.norms[i] * part.norms[j];
            // Where a vector is 0 these are 0/0: not a number.
            part.pairs[at] = {.cosine = dot / product,
                              .null_deviation = std::sqrt(variance) / product,
                              .sign_agreement = agree / both,
                              .sign_expected = expected / both,
                              .weighted_agreement = 0.5 + 0.5 * dot / magnitude,
                              .overlap = magnitude / independent};
        });
        return part;
    };
    std::vector<size_t> all;
    std::map<std::string, std::vector<size_t>> by_role;
    std::map<int32_t, std::vector<size_t>> by_block;
    for (size_t t = 0; t < tensors.size(); ++t) {
        if (tensors[t].elements == 0) continue;
        all.push_back(t);
        by_role[tensors[t].role.empty() ? "other" : tensors[t].role].push_back(t);
        by_block[std::max(tensors[t].block, -1)].push_back(t);
        tensors_.emplace_back(tensors[t].name, part_of({t}));
    }
    whole_ = part_of(all);
    for (const auto& [role, which] : by_role) roles_[role] = part_of(which);
    for (const auto& [block, which] : by_block) blocks_[block] = part_of(which);
}

double Geometry::norm_balance() const {
    const auto [least, most] = std::minmax_element(whole_.norms.begin(), whole_.norms.end());
    return *least > 0 ? *most / *least : std::numeric_limits<double>::infinity();
}

double Geometry::mean_cosine() const {
    return mean_over_pairs(whole_, &PairGeometry::cosine);
}
double Geometry::mean_sign_agreement() const {
    return mean_over_pairs(whole_, &PairGeometry::sign_agreement);
}

std::vector<std::string> Geometry::warnings(const std::vector<std::string>& stages) const {
    std::vector<std::string> out;
    auto uses = [&](std::initializer_list<std::string_view> begins) {
        return stages.empty() || std::any_of(stages.begin(), stages.end(), [&](const std::string& stage) {
                   return std::any_of(begins.begin(), begins.end(),
                                      [&](std::string_view begin) { return stage.starts_with(begin); });
               });
    };
    for (size_t i = 0; i < names_.size(); ++i)
        if (whole_.norms[i] == 0)
            out.push_back(fmt::format("the task vector '{}' is 0: its model is the base", names_[i]));
    if (names_.size() < 2 || !out.empty()) return out;
    const auto [least, most] = std::minmax_element(whole_.norms.begin(), whole_.norms.end());
    if (norm_balance() >= kNormRatio && (stages.empty() || !uses({"norm-adjusted"})))
        out.push_back(
            fmt::format("the task vector '{}' is {:.1f} times as long as '{}', so sums and means are mostly "
                        "the longer one; coefficients, or training that changes as much, would balance them",
                        names_[static_cast<size_t>(most - whole_.norms.begin())], norm_balance(),
                        names_[static_cast<size_t>(least - whole_.norms.begin())]));
    if (const double agreement = mean_sign_agreement(); uses({"elect", "pcb", "sce"}) && agreement < kChanceAgreement)
        out.push_back(
            fmt::format("the vectors agree in sign at {:.1f} % of the elements, and chance is 50 %: electing "
                        "signs (TIES) decides by a toss, and drops half of what was learned",
                        100 * agreement));
    const auto n = static_cast<double>(names_.size());
    const double cosine = mean_cosine(), kept = n * cosine / (1 + (n - 1) * cosine);
    if (uses({"model-stock"}) && kept < kLittle)
        out.push_back(
            fmt::format("at a mean cosine of {:.3f} Model Stock keeps {:.0f} % of the mean vector: its result "
                        "is the base but for a little",
                        cosine, 100 * std::max(kept, 0.0)));
    return out;
}

Json Geometry::to_json(const std::vector<std::string>& warnings) const {
    const size_t count = names_.size();
    auto part_json = [&](const Part& part) {
        Json out = {{"elements", part.elements}, {"norms", part.norms}};
        if (count < 2) return out;
        auto matrix = [&](double PairGeometry::*figure, const Json& diagonal) {
            Json rows = std::vector<Json>(count, std::vector<Json>(count, diagonal));
            for_pairs(count,
                      [&](size_t i, size_t j, size_t at) { rows[i][j] = rows[j][i] = number(part.pairs[at].*figure); });
            return rows;
        };
        out["cosine"] = matrix(&PairGeometry::cosine, 1);
        out["cosine_null_deviation"] = matrix(&PairGeometry::null_deviation, nullptr);
        out["sign_agreement"] = matrix(&PairGeometry::sign_agreement, 1);
        out["sign_agreement_expected"] = matrix(&PairGeometry::sign_expected, 1);
        out["sign_agreement_weighted"] = matrix(&PairGeometry::weighted_agreement, 1);
        out["overlap"] = matrix(&PairGeometry::overlap, nullptr);
        return out;
    };
    Json roles = Json::object(), blocks = Json::object();
    for (const auto& [role, part] : roles_) roles[role] = part_json(part);
    for (const auto& [block, part] : blocks_) blocks[block < 0 ? "none" : std::to_string(block)] = part_json(part);
    return {{"format", "biophony-geometry/0"},
            {"vectors", names_},
            {"whole", part_json(whole_)},
            {"roles", roles},
            {"blocks", blocks},
            {"norm_balance", number(norm_balance())},
            {"mean_cosine", number(mean_cosine())},
            {"mean_sign_agreement", number(mean_sign_agreement())},
            {"warnings", warnings}};
}

std::string Geometry::to_csv() const {
    std::string out =
        "level,part,elements,a,b,norm_a,norm_b,cosine,cosine_null_deviation,sign_agreement,sign_agreement_expected,"
        "sign_agreement_weighted,overlap\n";
    auto add = [&](const char* level, const std::string& name, const Part& part) {
        const std::string front = fmt::format("{},{},{}", level, csv_field(name), part.elements);
        if (names_.size() == 1) out += fmt::format("{},{},,{},,,,,,,\n", front, csv_field(names_[0]), part.norms[0]);
        for_pairs(names_.size(), [&](size_t i, size_t j, size_t at) {
            const PairGeometry& pair = part.pairs[at];
            out += fmt::format("{},{},{},{},{}", front, csv_field(names_[i]), csv_field(names_[j]), part.norms[i],
                               part.norms[j]);
            for (const double value : {pair.cosine, pair.null_deviation, pair.sign_agreement, pair.sign_expected,
                                       pair.weighted_agreement, pair.overlap})
                out += std::isfinite(value) ? fmt::format(",{}", value) : std::string(",");
            out += '\n';
        });
    };
    add("whole", "", whole_);
    for (const auto& [role, part] : roles_) add("role", role, part);
    for (const auto& [block, part] : blocks_) add("block", block < 0 ? "none" : std::to_string(block), part);
    for (const auto& [name, part] : tensors_) add("tensor", name, part);
    return out;
}

std::string Geometry::to_text(const std::vector<std::string>& warnings) const {
    size_t width = 6;
    for (const std::string& name : names_) width = std::max(width, name.size());
    std::string out = fmt::format("{} task vectors of {} parameters\n\n  {:<{}}      norm", names_.size(),
                                  whole_.elements, "vector", width);
    for (const auto& [role, part] : roles_) out += fmt::format("  {:>10}", role);
    out += '\n';
    for (size_t i = 0; i < names_.size(); ++i) {
        out += fmt::format("  {:<{}}  {:>8.4g}", names_[i], width, whole_.norms[i]);
        for (const auto& [role, part] : roles_) out += fmt::format("  {:>10.4g}", part.norms[i]);
        out += '\n';
    }
    if (names_.size() > 1) {
        out += fmt::format("\n  {:<{}}  {:<{}}    cosine   × null sd   same sign   above ½ + asin(ρ)/π   overlap\n",
                           "a", width, "b", width);
        for_pairs(names_.size(), [&](size_t i, size_t j, size_t at) {
            const PairGeometry& pair = whole_.pairs[at];
            out += fmt::format("  {:<{}}  {:<{}}  {:>8.4f}  {:>10.1f}  {:>10.4f}  {:>20.4f}  {:>8.3f}\n", names_[i],
                               width, names_[j], width, pair.cosine, pair.cosine / pair.null_deviation,
                               pair.sign_agreement, pair.sign_agreement - pair.sign_expected, pair.overlap);
        });
        out += fmt::format("\n  longest over shortest {:.3g}, mean cosine {:.4f}, mean sign agreement {:.4f}\n",
                           norm_balance(), mean_cosine(), mean_sign_agreement());
        out +=
            "  null sd: of the cosine of random directions with the same norms in each tensor; overlap: 1 where "
            "magnitudes are independent\n";
    }
    for (const std::string& warning : warnings) out += fmt::format("\n  {}\n", warning);
    return out;
}

Geometry geometry_of(const std::filesystem::path& base_path, const std::vector<std::filesystem::path>& paths,
                     const std::vector<std::string>& names, unsigned threads, Progress* progress,
                     const Cancel* cancel) {
    const SafetensorsFile base = SafetensorsFile::open(base_path);
    const EncoderCard card = EncoderCard::from(base);
    const auto hashes = tensor_hashes(base, threads);
    std::vector<TaskVector> vectors;
    allow_open_files(paths.size());
    for (const auto& path : paths) {
        vectors.push_back(TaskVector::open(path, false));
        vectors.back().check_base(base, hashes);
    }
    std::vector<GeometryTensor> tensors;
    struct Segment {
        size_t tensor = 0;
        uint64_t first = 0, count = 0;
    };
    // Small tensors together, a large one in several blocks; borders depend on the sizes alone.
    std::vector<std::vector<Segment>> blocks;
    uint64_t filled = kBlock;
    for (const TensorInfo& tensor : base.tensors()) {
        if (!is_merged(tensor, &card) || tensor.elements() == 0) continue;
        const TensorRole role = role_of(tensor, card);
        const size_t at = tensors.size();
        tensors.push_back({tensor.name, role.kind, role.block, tensor.elements()});
        for (uint64_t first = 0; first < tensor.elements(); first += kBlock) {
            const uint64_t count = std::min(kBlock, tensor.elements() - first);
            if (count > kBlock - filled) {
                blocks.emplace_back();
                filled = 0;
            }
            blocks.back().push_back({at, first, count});
            filled += count;
        }
    }
    std::vector<GeometrySums> parts(blocks.size(), GeometrySums(vectors.size()));
    std::atomic<size_t> next{0};
    std::atomic<bool> failed{false};
    std::exception_ptr problem;
    auto work = [&](bool tells) {
        try {
            std::vector<std::vector<float>> values(vectors.size(), std::vector<float>(GeometrySums::kPiece));
            std::vector<const float*> pointers(vectors.size());
            for (size_t b; !failed && (b = next++) < blocks.size();) {
                for (const Segment& segment : blocks[b]) {
                    if (cancel != nullptr) cancel->check();
                    const std::string& name = tensors[segment.tensor].name;
                    for (uint64_t done = 0; done < segment.count; done += GeometrySums::kPiece) {
                        const uint64_t count = std::min<uint64_t>(GeometrySums::kPiece, segment.count - done);
                        for (size_t i = 0; i < vectors.size(); ++i) {
                            const auto part = std::span(values[i]).first(count);
                            const SafetensorsFile& file = vectors[i].file();
                            file.read_floats(file.require(name), segment.first + done, part);
                            if (const size_t k = first_not_finite(part); k < part.size())
                                throw Error(Code::kRunFailed,
                                            fmt::format("tensor '{}' has {} at element {}", name, part[k],
                                                        segment.first + done + k),
                                            {.file = file.path().string()});
                            pointers[i] = values[i].data();
                        }
                        parts[b].see(segment.tensor, pointers, count);
                    }
                }
                if (tells && progress != nullptr)
                    progress->update(static_cast<double>(b), static_cast<double>(blocks.size()), "blocks");
            }
        } catch (...) {
            if (!failed.exchange(true)) problem = std::current_exception();
        }
    };
    {
        std::vector<std::jthread> helpers;
        for (unsigned i = 1; i < std::min<size_t>(threads, blocks.size()); ++i) helpers.emplace_back(work, false);
        work(true);
    }
    if (problem) std::rethrow_exception(problem);
    GeometrySums all(vectors.size());
    for (const GeometrySums& part : parts) all.join(part);
    return {names, tensors, all};
}

}  // namespace biophony
