# Writes node_sources.hpp: for each node type a SHA-256 over the sources that its results depend on. Called at build time
# with HOST (the folder host/) and OUTPUT. A node type not named here doesn't compile.
set(decode audio base)
set(weights weights base)
set(learning learn linalg audio weights base)

set(node_types dataset background encoder pretrain fine_tune task_vector compose arithmetic sweep geometry features head keep_head
  evaluate table)
set(dataset     ${decode} tasks/dataset.cpp tasks/splits.cpp tasks/splits.hpp tasks/clips.cpp tasks/clips.hpp)
set(background  ${decode} tasks/background.cpp tasks/quiet.cpp tasks/quiet.hpp tasks/clips.cpp tasks/clips.hpp)
set(encoder     learn weights base tasks/encoder.cpp)
set(pretrain    ${learning} tasks/pretrain.cpp tasks/clips.cpp tasks/clips.hpp)
set(fine_tune   ${decode} weights/safetensors.cpp weights/safetensors.hpp weights/task_vector.cpp weights/task_vector.hpp weights/finite.hpp
                weights/kernels.cpp weights/kernels.hpp linalg/linalg.cpp linalg/linalg.hpp learn/augment.cpp learn/augment.hpp learn/autocast.hpp learn/encoder.cpp learn/encoder.hpp
                learn/model_files.cpp learn/model_files.hpp learn/optimiser.cpp learn/optimiser.hpp learn/pooling.cpp learn/pooling.hpp
                learn/recipe.cpp learn/recipe.hpp learn/ridge.cpp learn/ridge.hpp learn/run_fine_tune.cpp learn/scratch.cpp learn/scratch.hpp learn/tensors.hpp learn/trainer.cpp
                learn/trainer.hpp learn/windows.cpp learn/windows.hpp tasks/fine_tune.cpp tasks/clips.cpp tasks/clips.hpp)
set(task_vector ${weights} tasks/task_vector.cpp)
set(compose     base weights/finite.hpp weights/kernels.cpp weights/kernels.hpp weights/merge.cpp weights/merge.hpp weights/merge_observer.hpp
                weights/merge_inputs.cpp weights/merge_inputs.hpp weights/remembered.cpp weights/remembered.hpp
                weights/safetensors.cpp weights/safetensors.hpp weights/stage_instance.cpp weights/stage_instance.hpp
                weights/stages.cpp weights/stages.hpp weights/task_vector.cpp weights/task_vector.hpp
                plugins/merger_traits.cpp plugins/merger_traits.hpp linalg/lent.cpp linalg/linalg.cpp linalg/linalg.hpp tasks/compose.cpp
                tasks/arithmetic.cpp tasks/arithmetic.hpp weights/expression.cpp weights/expression.hpp weights/geometry.cpp
                weights/geometry.hpp weights/geometry_observer.cpp weights/geometry_observer.hpp)
set(arithmetic  base weights/finite.hpp weights/kernels.cpp weights/kernels.hpp weights/safetensors.cpp weights/safetensors.hpp weights/task_vector.cpp weights/task_vector.hpp
                weights/vector_sum.cpp weights/vector_sum.hpp weights/expression.cpp weights/expression.hpp
                tasks/arithmetic.cpp tasks/arithmetic.hpp)
# Heads work on features; only what makes features listens.
set(encoders    learn/encoder.cpp learn/encoder.hpp learn/pooling.cpp learn/pooling.hpp)
set(feature_use ${weights} ${encoders} learn/features.cpp learn/features.hpp tasks/clips.cpp tasks/clips.hpp)
set(head_use    ${feature_use} learn/model_files.cpp learn/model_files.hpp learn/head_model.cpp learn/head_model.hpp
                learn/tensors.hpp)
set(features    ${decode} ${feature_use} learn/scratch.cpp learn/scratch.hpp learn/windows.cpp learn/windows.hpp learn/run_features.cpp tasks/features.cpp)
set(head        ${head_use} linalg learn/ridge.cpp learn/ridge.hpp learn/discriminant.cpp learn/discriminant.hpp
  learn/logistic.cpp learn/logistic.hpp learn/run_head.cpp tasks/head.cpp tasks/head_rules.cpp tasks/head_rules.hpp)
set(evaluate    ${head_use} measure learn/run_evaluate.cpp tasks/evaluate.cpp)
set(geometry    base weights/finite.hpp weights/kernels.cpp weights/kernels.hpp weights/safetensors.cpp weights/safetensors.hpp weights/task_vector.cpp weights/task_vector.hpp
                weights/geometry.cpp weights/geometry.hpp tasks/geometry.cpp tasks/arithmetic.cpp tasks/arithmetic.hpp)
set(keep_head   base tasks/keep_head.cpp)
set(sweep       ${features} ${head} ${evaluate} ${arithmetic} ${keep_head} learn/run_sweep.cpp tasks/sweep.cpp tasks/sweep.hpp)
set(table       measure report base tasks/table.cpp)

set(text "// Made by tasks/sources.cmake; do not edit.\n#pragma once\n\nnamespace biophony::sources {\n")
foreach(type ${node_types})
  set(files "")
  foreach(part ${${type}})
    if(IS_DIRECTORY ${HOST}/${part})
      file(GLOB found RELATIVE ${HOST} ${HOST}/${part}/*.cpp ${HOST}/${part}/*.hpp)
      list(APPEND files ${found})
    else()
      list(APPEND files ${part})
    endif()
  endforeach()
  list(SORT files)
  set(hashes "")
  foreach(file ${files})
    file(SHA256 ${HOST}/${file} hash)
    string(APPEND hashes "${file} ${hash}\n")
  endforeach()
  string(SHA256 hash "${hashes}")
  string(APPEND text "inline constexpr const char* k_${type} = \"${hash}\";\n")
endforeach()
string(APPEND text "}  // namespace biophony::sources\n")
file(WRITE ${OUTPUT} "${text}")
