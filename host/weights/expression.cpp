#include "weights/expression.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/error.hpp"
#include "base/nearest.hpp"

namespace biophony {

namespace {

constexpr size_t kLongest = 10'000;  ///< characters
constexpr size_t kMostTerms = 1000;
constexpr int kDeepest = 100;  ///< brackets within brackets

/// A polynomial: by coefficients and vector, "" where there is none.
using Terms = std::map<std::pair<std::vector<std::string>, std::string>, double>;

bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (static_cast<unsigned char>(c) & 0x80U);
}
bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

class Parser {
public:
    Parser(std::string_view text, std::span<const std::string> vectors, std::span<const std::string> coefficients)
        : text_(text), vectors_(vectors), coefficients_(coefficients) {}

    Terms run() {
        if (text_.size() > kLongest)
            throw Error(Code::kInvalid,
                        fmt::format("the expression has {} characters, expected at most {}", text_.size(), kLongest));
        Terms terms = sum(0);
        if (!at_end()) wrong(at_, fmt::format("found {}, expected '+', '-' or the end", here()));
        return terms;
    }

private:
    [[noreturn]] void wrong(size_t place, const Message& what) const {
        throw Error(Code::kInvalid, fmt::format("at {} of \"{}\": ", place + 1, text_) + what);
    }

    bool at_end() {
        while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n')) ++at_;
        return at_ == text_.size();
    }
    bool take(char c) {
        if (at_end() || text_[at_] != c) return false;
        ++at_;
        return true;
    }
    std::string here() { return at_end() ? "the end" : fmt::format("'{}'", text_[at_]); }

    Terms sum(int depth) {
        if (depth > kDeepest) wrong(at_, fmt::format("brackets are more than {} deep", kDeepest));
        Terms all = product(depth);
        while (true) {
            const double sign = take('+') ? 1 : take('-') ? -1 : 0;
            if (sign == 0) return all;
            const size_t place = (static_cast<void>(at_end()), at_);
            const Terms next = product(depth);
            if (is_scalar(next) != is_scalar(all))
                wrong(place, "a number and a vector can't be added; each term has a vector");
            for (const auto& [key, value] : next) all[key] += sign * value;
            check_size(all, place);
        }
    }

    Terms product(int depth) {
        Terms all = factor(depth);
        while (true) {
            const bool times = take('*');
            if (!times && !take('/')) return all;
            const size_t place = (static_cast<void>(at_end()), at_);
            const Terms next = factor(depth);
            if (!times) {
                if (next.size() > 1 || !is_scalar(next) || (next.size() == 1 && !next.begin()->first.first.empty()))
                    wrong(place, "what is divided by must be a number");
                if (next.empty() || next.begin()->second == 0) wrong(place, "a division by 0");
                for (auto& [key, value] : all) value /= next.begin()->second;
                continue;
            }
            if (!is_scalar(all) && !is_scalar(next)) wrong(place, "two vectors can't be multiplied with each other");
            Terms both;
            for (const auto& [a, x] : all)
                for (const auto& [b, y] : next) {
                    std::vector<std::string> names = a.first;
                    names.insert(names.end(), b.first.begin(), b.first.end());
                    std::sort(names.begin(), names.end());
                    both[{std::move(names), a.second + b.second}] += x * y;
                    check_size(both, place);
                }
            all = std::move(both);
        }
    }

    Terms factor(int depth) {
        if (take('-')) {
            if (depth > kDeepest) wrong(at_, fmt::format("signs are more than {} deep", kDeepest));
            Terms inner = factor(depth + 1);
            for (auto& [key, value] : inner) value = -value;
            return inner;
        }
        if (take('(')) {
            const size_t open = at_ - 1;
            Terms inner = sum(depth + 1);
            if (!take(')')) wrong(at_, fmt::format("found {}, expected the ')' for the '(' at {}", here(), open + 1));
            return inner;
        }
        if (at_end()) wrong(at_, "found the end, expected a number, a name or '('");
        const size_t from = at_;
        if (is_digit(text_[at_]) || text_[at_] == '.') {
            double value = 0;
            const auto [end, problem] = std::from_chars(text_.data() + at_, text_.data() + text_.size(), value);
            if (problem != std::errc() || !std::isfinite(value)) wrong(from, "that is no number");
            at_ = static_cast<size_t>(end - text_.data());
            if (at_ < text_.size() && (is_letter(text_[at_]) || is_digit(text_[at_]) || text_[at_] == '.'))
                wrong(at_,
                      fmt::format("found '{}' right behind a number, expected '*', '+', '-' or the end", text_[at_]));
            return {{{{}, ""}, value}};
        }
        if (!is_letter(text_[at_])) wrong(from, fmt::format("found {}, expected a number, a name or '('", here()));
        while (at_ < text_.size() && (is_letter(text_[at_]) || is_digit(text_[at_]))) ++at_;
        const std::string name(text_.substr(from, at_ - from));
        if (std::find(vectors_.begin(), vectors_.end(), name) != vectors_.end()) return {{{{}, name}, 1.0}};
        if (std::find(coefficients_.begin(), coefficients_.end(), name) != coefficients_.end())
            return {{{{name}, ""}, 1.0}};
        std::vector<std::string> known(vectors_.begin(), vectors_.end());
        known.insert(known.end(), coefficients_.begin(), coefficients_.end());
        wrong(from, with_nearest(fmt::format("there is no {} '{}'",
                                             coefficients_.empty() ? "vector" : "vector or coefficient", name),
                                 name, known));
    }

    static bool is_scalar(const Terms& terms) {
        return std::all_of(terms.begin(), terms.end(), [](const auto& term) { return term.first.second.empty(); });
    }
    void check_size(const Terms& terms, size_t place) const {
        if (terms.size() > kMostTerms)
            wrong(place, fmt::format("written out, the expression has more than {} terms", kMostTerms));
    }

    std::string_view text_;
    std::span<const std::string> vectors_, coefficients_;
    size_t at_ = 0;
};

}  // namespace

bool is_expression_name(std::string_view name) {
    return !name.empty() && !is_digit(name[0]) &&
           std::all_of(name.begin(), name.end(), [](char c) { return is_letter(c) || is_digit(c); });
}

std::string no_expression_name(std::string_view name) {
    std::string other(name);
    for (char& c : other)
        if (!is_letter(c) && !is_digit(c)) c = '_';
    while (other.ends_with('_')) other.pop_back();
    if (other.empty() || is_digit(other[0])) other.insert(0, "v");
    return fmt::format(
        "'{}' can't stand in an expression, whose names have letters, digits and _, no digit first; call "
        "it otherwise: {{\"{}\": …}}",
        name, other);
}

LinearForm parse_expression(std::string_view text, std::span<const std::string> vectors,
                            std::span<const std::string> coefficients) {
    for (const auto& names : {vectors, coefficients})
        for (const std::string& name : names)
            if (!is_expression_name(name)) throw Error(Code::kInvalid, no_expression_name(name));
    LinearForm form;
    for (const auto& [key, value] : Parser(text, vectors, coefficients).run()) {
        if (key.second.empty())
            throw Error(Code::kInvalid, fmt::format("\"{}\" is a number; expected terms with a vector each", text));
        if (!std::isfinite(value))
            throw Error(Code::kInvalid, fmt::format("\"{}\" has factors that are too large", text));
        if (value != 0) form[key.first][key.second] = value;
    }
    auto used = [&](const std::string& name) {
        return std::any_of(form.begin(), form.end(), [&](const auto& part) {
            return part.second.contains(name) ||
                   std::find(part.first.begin(), part.first.end(), name) != part.first.end();
        });
    };
    for (const std::string& name : vectors)
        if (!used(name))
            throw Error(Code::kInvalid,
                        fmt::format("\"{}\" leaves out the vector '{}'; use it, or don't connect it", text, name));
    for (const std::string& name : coefficients)
        if (!used(name)) throw Error(Code::kInvalid, fmt::format("\"{}\" doesn't use '{}'", text, name));
    return form;
}

std::vector<double> factors_of(std::string_view text, std::span<const std::string> vectors) {
    const LinearForm form = parse_expression(text, vectors);
    std::vector<double> out;
    for (const std::string& name : vectors) out.push_back(form.begin()->second.at(name));
    return out;
}

double product_of(const std::vector<std::string>& names, const std::map<std::string, double>& values) {
    double out = 1;
    for (const std::string& name : names) out *= values.at(name);
    return out;
}

}  // namespace biophony
