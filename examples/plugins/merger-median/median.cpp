// The median of the deltas, element by element; of an even number the mean of the two in the middle.
#include <biophony/merger.hpp>

#include <algorithm>
#include <vector>

using namespace biophony::sdk;

class Median : public Merger {
public:
    explicit Median(const Params& params) : scale_(params.at("scale")) {}

    void element(const Tile& tile) const override {
        const size_t n = tile.experts(), half = n / 2;
        std::vector<float> values(n);
        for (size_t i = 0; i < tile.size(); ++i) {
            for (size_t expert = 0; expert < n; ++expert) values[expert] = tile.expert(expert)[i];
            std::sort(values.begin(), values.end());
            const float median = n % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
            tile.out()[i] = scale_ * median;
        }
    }

private:
    float scale_;
};

BIOPHONY_PLUGIN(merger<Median>("median"))
