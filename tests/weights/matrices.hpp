// Matrices by loops that can be read, to compare with.
#pragma once

#include "biophony/merger.hpp"

namespace biophony::test {

inline sdk::Matrix product(const sdk::Matrix& a, const sdk::Matrix& b) {
    sdk::Matrix out(a.rows, b.columns);
    for (size_t i = 0; i < a.rows; ++i)
        for (size_t j = 0; j < b.columns; ++j)
            for (size_t k = 0; k < a.columns; ++k) out.at(i, j) += a.at(i, k) * b.at(k, j);
    return out;
}

inline sdk::Matrix transposed(const sdk::Matrix& a) {
    sdk::Matrix out(a.columns, a.rows);
    for (size_t i = 0; i < a.rows; ++i)
        for (size_t j = 0; j < a.columns; ++j) out.at(j, i) = a.at(i, j);
    return out;
}

}  // namespace biophony::test
