#include "weights/geometry.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <exception>
#include <limits>
#include <mutex>
#include <numbers>
#include <thread>

#include "base/csv.hpp"
#include "weights/finite.hpp"
#include "weights/kernels.hpp"
#include "weights/task_vector.hpp"

namespace biophony {

namespace {

constexpr uint64_t kBlock = GeometrySums::kBlock;
/// Bytes that sums of blocks may take in all threads together.
constexpr uint64_t kMemory = 160'000'000;
/// Elements of all vectors that stay in the nearest caches while pairs are made of them.
constexpr size_t kRun = 512;
static_assert(kRun % 64 == 0 && GeometrySums::kPiece % kRun == 0);
/// Below this mean agreement a majority of signs is hardly more than a toss: a correlation of 0.063 gives 0.52.
constexpr double kChanceAgreement = 0.52;
/// From this ratio on the smallest vector has less than a ninth of the largest one's energy.
constexpr double kNormRatio = 3;
/// Share of the mean that Model Stock keeps, below which its result is the base but for a little.
constexpr double kLittle = 0.2;

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
    }
    constexpr size_t kWords = kRun / 64;
    static const std::vector<double> ones(kRun, 1);
    thread_local std::vector<double> wide;  // a thread sees many blocks
    thread_local std::vector<uint64_t> negative, set;
    wide.resize(vectors_ * kRun);
    negative.resize(vectors_ * kWords);
    set.resize(vectors_ * kWords);
    for (size_t from = 0; from < count; from += kRun) {
        const size_t part = std::min(kRun, count - from), words = (part + 63) / 64;
        const size_t padded = (part + kernels::kLanes - 1) / kernels::kLanes * kernels::kLanes;
        for (size_t i = 0; i < vectors_; ++i) {
            double* a = wide.data() + i * kRun;
            std::copy_n(vectors[i] + from, part, a);
            std::fill(a + part, a + padded, 0.0);
            kernels::signs(vectors[i] + from, part, negative.data() + i * kWords, set.data() + i * kWords);
            sums.squares[i] += kernels::products(a, a, padded).sum;
            sums.absolute[i] += kernels::products(a, ones.data(), padded).absolute;
        }
        for_pairs(vectors_, [&](size_t i, size_t j, size_t at) {
            Pair& pair = sums.pairs[at];
            const auto [dot, magnitude] = kernels::products(wide.data() + i * kRun, wide.data() + j * kRun, padded);
            const auto [both, agree] = kernels::agreement(&negative[i * kWords], &set[i * kWords],
                                                          &negative[j * kWords], &set[j * kWords], words);
            pair.dot += dot;
            pair.magnitude += magnitude;
            pair.agree += agree;
            pair.both += both;
        });
    }
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

uint64_t GeometrySums::bytes(size_t vectors, size_t tensors) {
    const uint64_t each = vectors * (vectors - 1) / 2 * sizeof(Pair) + vectors * 2 * sizeof(double) + 200;
    return tensors * each;
}

void Geometry::Sums::add(const GeometrySums::Tensor& tensor, uint64_t count) {
    const auto n = static_cast<double>(count);
    elements += count;
    for (size_t i = 0; i < squares.size(); ++i) squares[i] += tensor.squares[i];
    if (pairs.empty()) return;
    for_pairs(squares.size(), [&](size_t i, size_t j, size_t at) {
        const GeometrySums::Pair& seen = tensor.pairs[at];
        Pair& pair = pairs[at];
        const auto counted = static_cast<double>(seen.both);
        const double product = tensor.squares[i] * tensor.squares[j];
        pair.dot += seen.dot;
        pair.magnitude += seen.magnitude;
        pair.variance += product / n;
        pair.independent += tensor.absolute[i] * tensor.absolute[j] / n;
        pair.agree += static_cast<double>(seen.agree);
        pair.both += counted;
        if (product > 0) {
            const double cosine = std::clamp(seen.dot / std::sqrt(product), -1.0, 1.0);
            pair.expected += counted * (0.5 + std::asin(cosine) / std::numbers::pi);
        }
    });
}

PairGeometry Geometry::Sums::pair(size_t at, size_t i, size_t j) const {
    const Pair& sum = pairs[at];
    const double product = std::sqrt(squares[i]) * std::sqrt(squares[j]);
    // Where a vector is 0 these are 0/0: not a number.
    return {.cosine = sum.dot / product,
            .null_deviation = std::sqrt(sum.variance) / product,
            .sign_agreement = sum.agree / sum.both,
            .sign_expected = sum.expected / sum.both,
            .weighted_agreement = 0.5 + 0.5 * sum.dot / sum.magnitude,
            .overlap = sum.magnitude / sum.independent};
}

Geometry::Part Geometry::Sums::part() const {
    Part out{.elements = elements};
    for (const double square : squares) out.norms.push_back(std::sqrt(square));
    if (pairs.empty()) return out;
    out.pairs.reserve(pairs.size());
    for_pairs(squares.size(), [&](size_t i, size_t j, size_t at) { out.pairs.push_back(pair(at, i, j)); });
    return out;
}

Geometry::Sums Geometry::empty(size_t most) const {
    Sums out;
    out.squares.resize(names_.size());
    if (names_.size() <= most) out.pairs.resize(names_.size() * (names_.size() - 1) / 2);
    return out;
}

Geometry::Geometry(std::vector<std::string> names, std::vector<GeometryTensor> tensors)
    : names_(std::move(names)), known_(std::move(tensors)) {
    whole_ = empty(names_.size());
}

Geometry::Geometry(std::vector<std::string> names, std::vector<GeometryTensor> tensors, GeometrySums sums)
    : Geometry(std::move(names), std::move(tensors)) {
    take(sums, known_.size());
}

void Geometry::take(GeometrySums& sums, size_t end) {
    while (!sums.tensors_.empty() && sums.tensors_.begin()->first < end) {
        const auto [at, seen] = *sums.tensors_.begin();
        const GeometryTensor& tensor = known_.at(at);
        const auto role = roles_.try_emplace(tensor.role.empty() ? "other" : tensor.role, empty(kPartPairs)).first;
        const auto block = blocks_.try_emplace(std::max(tensor.block, -1), empty(kPartPairs)).first;
        Sums alone = empty(kTensorPairs);
        for (Sums* part : {&whole_, &role->second, &block->second, &alone}) part->add(seen, tensor.elements);
        tensors_.emplace_back(tensor.name, alone.part());
        sums.tensors_.erase(sums.tensors_.begin());
    }
}

uint64_t Geometry::bytes() const {
    const uint64_t n = names_.size(), pairs = n * (n - 1) / 2;
    std::map<std::string, size_t> roles;
    std::map<int32_t, size_t> blocks;
    for (const GeometryTensor& tensor : known_) ++roles[tensor.role], ++blocks[tensor.block];
    const uint64_t parts = roles.size() + blocks.size();
    return (parts + 1) * n * sizeof(double) + (1 + (n <= kPartPairs ? parts : 0)) * pairs * sizeof(Sums::Pair) +
           known_.size() * (n * sizeof(double) + (n <= kTensorPairs ? pairs * sizeof(PairGeometry) : 0) + 200);
}

std::map<std::string, Geometry::Part> Geometry::roles() const {
    std::map<std::string, Part> out;
    for (const auto& [role, sums] : roles_) out[role] = sums.part();
    return out;
}

std::map<int32_t, Geometry::Part> Geometry::blocks() const {
    std::map<int32_t, Part> out;
    for (const auto& [block, sums] : blocks_) out[block] = sums.part();
    return out;
}

double Geometry::norm_balance() const {
    const auto [least, most] = std::minmax_element(whole_.squares.begin(), whole_.squares.end());
    return *least > 0 ? std::sqrt(*most) / std::sqrt(*least) : std::numeric_limits<double>::infinity();
}

double Geometry::mean_over_pairs(double PairGeometry::*figure) const {
    double sum = 0;
    size_t count = 0;
    for_pairs(names_.size(), [&](size_t i, size_t j, size_t at) {
        const double value = whole_.pair(at, i, j).*figure;
        if (std::isnan(value)) return;
        sum += value;
        ++count;
    });
    return sum / static_cast<double>(count);
}
double Geometry::mean_cosine() const {
    return mean_over_pairs(&PairGeometry::cosine);
}
double Geometry::mean_sign_agreement() const {
    return mean_over_pairs(&PairGeometry::sign_agreement);
}

std::vector<std::string> Geometry::warnings(const std::vector<std::string>& stages,
                                            const std::vector<bool>& moves) const {
    std::vector<std::string> out;
    auto uses = [&](std::initializer_list<std::string_view> begins) {
        return stages.empty() || std::any_of(stages.begin(), stages.end(), [&](const std::string& stage) {
                   return std::any_of(begins.begin(), begins.end(),
                                      [&](std::string_view begin) { return stage.starts_with(begin); });
               });
    };
    const std::vector<double>& squares = whole_.squares;
    std::vector<size_t> seen;
    for (size_t i = 0; i < names_.size(); ++i) {
        if (squares[i] > 0)
            seen.push_back(i);
        else if (moves.empty() || !moves[i])
            out.push_back(fmt::format("the task vector '{}' is 0: its model is the base", names_[i]));
    }
    if (seen.size() < 2) return out;
    const auto [least, most] =
        std::minmax_element(seen.begin(), seen.end(), [&](size_t i, size_t j) { return squares[i] < squares[j]; });
    const double ratio = std::sqrt(squares[*most]) / std::sqrt(squares[*least]);
    if (ratio >= kNormRatio && (stages.empty() || !uses({"norm-adjusted"})))
        out.push_back(
            fmt::format("the task vector '{}' is {:.1f} times as long as '{}', so sums and means are mostly "
                        "the longer one; coefficients, or training that changes as much, would balance them",
                        names_[*most], ratio, names_[*least]));
    if (const double agreement = mean_sign_agreement(); uses({"elect", "pcb", "sce"}) && agreement < kChanceAgreement)
        out.push_back(
            fmt::format("the vectors agree in sign at {:.1f} % of the elements ({:.1f} % where each counts by its "
                        "magnitudes, as trimming keeps the largest), and chance is 50 %: electing signs (TIES) decides "
                        "by a toss, and drops half of what was learned",
                        100 * agreement, 100 * mean_over_pairs(&PairGeometry::weighted_agreement)));
    // What is 0 or wasn't seen counts in neither.
    const auto n = static_cast<double>(seen.size());
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
        if (part.pairs.empty()) return out;
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
    for (const auto& [role, sums] : roles_) roles[role] = part_json(sums.part());
    for (const auto& [block, sums] : blocks_)
        blocks[block < 0 ? "none" : std::to_string(block)] = part_json(sums.part());
    Json out = {{"format", "biophony-geometry/0"},
                {"vectors", names_},
                {"whole", part_json(whole_.part())},
                {"roles", roles},
                {"blocks", blocks},
                {"norm_balance", number(norm_balance())},
                {"mean_cosine", number(mean_cosine())},
                {"mean_sign_agreement", number(mean_sign_agreement())},
                {"warnings", warnings}};
    if (count > kTensorPairs)
        out["left_out"] = fmt::format(
            "pairs of single tensors, as there are more than {} vectors{}", kTensorPairs,
            count > kPartPairs ? fmt::format("; of roles and blocks, more than {}", kPartPairs) : std::string());
    return out;
}

std::string Geometry::to_csv() const {
    std::string out =
        "level,part,elements,a,b,norm_a,norm_b,cosine,cosine_null_deviation,sign_agreement,sign_agreement_expected,"
        "sign_agreement_weighted,overlap\n";
    auto add = [&](const char* level, const std::string& name, const Part& part) {
        const std::string front = fmt::format("{},{},{}", level, csv_field(name), part.elements);
        if (part.pairs.empty()) {
            for (size_t i = 0; i < names_.size(); ++i)
                out += fmt::format("{},{},,{},,,,,,,\n", front, csv_field(names_[i]), part.norms[i]);
            return;
        }
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
    add("whole", "", whole_.part());
    for (const auto& [role, sums] : roles_) add("role", role, sums.part());
    for (const auto& [block, sums] : blocks_) add("block", block < 0 ? "none" : std::to_string(block), sums.part());
    for (const auto& [name, part] : tensors_) add("tensor", name, part);
    return out;
}

std::string Geometry::to_text(const std::vector<std::string>& warnings) const {
    size_t width = 6;
    for (const std::string& name : names_) width = std::max(width, name.size());
    const std::vector<double> norms = whole_.part().norms;
    std::string out = fmt::format("{} task vectors of {} parameters\n\n  {:<{}}      norm", names_.size(),
                                  whole_.elements, "vector", width);
    for (const auto& [role, sums] : roles_) out += fmt::format("  {:>10}", role);
    out += '\n';
    for (size_t i = 0; i < names_.size(); ++i) {
        out += fmt::format("  {:<{}}  {:>8.4g}", names_[i], width, norms[i]);
        for (const auto& [role, sums] : roles_) out += fmt::format("  {:>10.4g}", std::sqrt(sums.squares[i]));
        out += '\n';
    }
    if (names_.size() > kTensorPairs) out += fmt::format("\n  {} pairs: the .csv file has them\n", whole_.pairs.size());
    if (names_.size() > 1) {
        if (names_.size() <= kTensorPairs)
            out += fmt::format("\n  {:<{}}  {:<{}}    cosine   × null sd   same sign   above ½ + asin(ρ)/π   overlap\n",
                               "a", width, "b", width);
        for_pairs(names_.size() <= kTensorPairs ? names_.size() : 0, [&](size_t i, size_t j, size_t at) {
            const PairGeometry pair = whole_.pair(at, i, j);
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
    Geometry geometry(names, tensors);
    GeometrySums open(vectors.size());  // of tensors that more blocks may come of
    std::atomic<size_t> next{0};
    std::atomic<bool> failed{false};
    std::exception_ptr problem;
    // Blocks are joined in their order; a thread that is early waits.
    std::mutex mutex;
    std::condition_variable turned;
    size_t turn = 0;
    auto join = [&](size_t block, const GeometrySums& sums) {
        std::unique_lock lock(mutex);
        turned.wait(lock, [&] { return turn == block || failed; });
        if (failed) return;
        open.join(sums);
        geometry.take(open, blocks[block].back().tensor);
        ++turn;
        turned.notify_all();
    };
    auto work = [&](bool tells) {
        try {
            std::vector<std::vector<float>> values(vectors.size(), std::vector<float>(GeometrySums::kPiece));
            std::vector<const float*> pointers(vectors.size());
            for (size_t b; !failed && (b = next++) < blocks.size();) {
                GeometrySums sums(vectors.size());
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
                        sums.see(segment.tensor, pointers, count);
                    }
                }
                join(b, sums);
                if (tells && progress != nullptr)
                    progress->update(static_cast<double>(b), static_cast<double>(blocks.size()), "blocks");
            }
        } catch (...) {
            const std::lock_guard lock(mutex);
            if (!failed.exchange(true)) problem = std::current_exception();
            turned.notify_all();
        }
    };
    {
        size_t most = 0;
        for (const std::vector<Segment>& block : blocks) most = std::max(most, block.size());
        const size_t fit = std::max<uint64_t>(kMemory / GeometrySums::bytes(vectors.size(), most), 1);
        std::vector<std::jthread> helpers;
        for (size_t i = 1; i < std::min({static_cast<size_t>(threads), blocks.size(), fit}); ++i)
            helpers.emplace_back(work, false);
        work(true);
    }
    if (problem) std::rethrow_exception(problem);
    geometry.take(open, tensors.size());
    return geometry;
}

}  // namespace biophony
