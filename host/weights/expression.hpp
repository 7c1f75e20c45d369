// Expressions of task vectors: "frog + bird - 0.5*insect", "scale * (b + c - a)".
//
//   sum     = ["-"] product { ("+" | "-") product }
//   product = factor { ("*" | "/") factor }
//   factor  = number | name | "-" factor | "(" sum ")"
//
// A name is a vector's or, where there are any, a coefficient's: letters, digits and _ (and whatever lies beyond
// ASCII), no digit first. Each term has one vector; what is divided by is a number. Addition, negation and analogy of
// task vectors: Ilharco et al. 2022 (arXiv 2212.04089).
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace biophony {

/// Σ_m (product of the coefficients of m) · Σ_i d_mi τ_i: by the coefficients of m, sorted, one that is squared twice;
/// then by vector. No d is 0. Without coefficients there is one m, the empty one.
using LinearForm = std::map<std::vector<std::string>, std::map<std::string, double>>;

/// Whether an expression can have this name.
bool is_expression_name(std::string_view name);
/// The message for a name that it can't have, with one that it can.
std::string no_expression_name(std::string_view name);

/// Reads an expression in which each of `vectors` and each of `coefficients` is used. Throws Error(kInvalid) with the
/// place in the text, what was found and the nearest name.
LinearForm parse_expression(std::string_view text, std::span<const std::string> vectors,
                            std::span<const std::string> coefficients = {});

/// What each vector is multiplied with in an expression without coefficients, in the order of `vectors`. Throws as
/// parse_expression() does.
std::vector<double> factors_of(std::string_view text, std::span<const std::string> vectors);

/// The form's value of one m: the product of its coefficients.
double product_of(const std::vector<std::string>& names, const std::map<std::string, double>& values);

}  // namespace biophony
